import Foundation

/// Runs the golden vectors of a bundle on one compute unit after the other.
///
/// Each stage is fed what PyTorch computed before it, so that an error is charged where it arises.
struct SelfTest {
    private let model: ChatModel
    private let golden: GoldenVectors
    private let clock = ContinuousClock()

    init(_ model: ChatModel) throws {
        self.model = model
        golden = try GoldenVectors(locate: model.locate)
    }

    /// The stages of the packages that `engines` opens, allowed on `unit` alone.
    ///
    /// - Parameter checkpoint: called before each call of a package; what it throws ends the test.
    func run(
        _ unit: ComputeUnit, _ engines: any EngineSource, checkpoint: () throws -> Void
    ) throws -> [SelfTestStage] {
        var stages: [SelfTestStage] = []
        var pictures = PictureStages(
            model: model, golden: golden,
            vision: try VisionPipeline(model.manifest, engines: engines, locate: model.locate))
        stages.append(
            try measure("vision_encoder", unit) { try pictures.features(checkpoint) })
        stages.append(try measure("resampler", unit) { try pictures.embeds(checkpoint) })
        var text = TextStages(model: model, golden: golden, engines: engines)
        stages.append(try measure("logits", unit) { try text.logits(checkpoint) })
        stages.append(try measure("greedy_tokens", unit) { text.agreement })
        return stages
    }

    /// What the host makes of the golden pictures, where it can read picture files.
    func preprocessing() throws -> SelfTestStage {
        try measure("preprocessing", nil) {
            try PreprocessingStage(model: model, golden: golden).measured()
        }
    }

    /// What a stage found.
    struct Outcome {
        var decibels: [Double] = []
        var agreement: Double?
        var count = 0
        var seconds: Double?
        var note = ""
        var failure: String?
    }

    /// A stage that fails is part of the report, with its reason.
    private func measure(
        _ stage: String, _ unit: ComputeUnit?, _ run: () throws -> Outcome
    ) throws -> SelfTestStage {
        let start = clock.now
        var outcome: Outcome
        do {
            outcome = try run()
        } catch let error as MiniCPMVError {
            outcome = Outcome(failure: error.sentence)
        }
        let seconds = outcome.seconds ?? start.duration(to: clock.now) / .seconds(1)
        return SelfTestStage(
            stage: stage, unit: unit, decibels: Self.worst(outcome.decibels),
            agreement: outcome.agreement, seconds: seconds, count: outcome.count,
            note: outcome.note, failure: outcome.failure)
    }

    /// The smallest; NaN counts as smaller than any.
    static func worst(_ decibels: [Double]) -> Double? {
        decibels.contains { $0.isNaN } ? .nan : decibels.min()
    }
}
