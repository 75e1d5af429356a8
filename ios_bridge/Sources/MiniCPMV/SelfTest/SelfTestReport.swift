import Foundation

/// What one stage of the model gave on one compute unit.
public struct SelfTestStage: Codable, Sendable, Equatable {
    /// `preprocessing`, `vision_encoder`, `resampler`, `logits` or `greedy_tokens`.
    public let stage: String
    /// The unit that was allowed; nil for what the host computes.
    public let unit: ComputeUnit?
    /// The worst of the golden chats, against PyTorch with the checkpoint's weights; infinite when
    /// equal, NaN when numbers are not finite. Nil for `greedy_tokens`, and when it did not run.
    public let decibels: Double?
    /// Share of the steps at which the best token is PyTorch's; of `greedy_tokens` alone.
    public let agreement: Double?
    /// Seconds that the stage took over all chats.
    public let seconds: Double
    /// Calls that the seconds are for: views, groups, prompts, or tokens.
    public let count: Int
    /// Why there was nothing to run; empty otherwise.
    public let note: String
    /// Why it failed; nil when it did not.
    public let failure: String?
}

/// What a self-test found on a device.
public struct SelfTestReport: Codable, Sendable, Equatable {
    /// Version of this report's fields.
    public static let version = 1

    /// Version of the fields.
    public let version: Int
    /// The device's model, such as `iPad16,3`.
    public let device: String
    /// The system and its version.
    public let system: String
    /// The model's release.
    public let model: String
    /// Name of the recipe by which the weights are stored.
    public let recipe: String
    /// SHA-256 of the manifest, in hexadecimal.
    public let manifestSha256: String
    /// Bytes that the app could have had when the test began; nil where there is no limit.
    public let availableBytes: Int?
    /// Most bytes that the app held until the test ended.
    public let peakBytes: Int
    /// Every stage on every unit.
    public let stages: [SelfTestStage]
    /// On what each package ran, unit by unit.
    public let placements: [PackagePlacement]

    /// The report as a JSON file that `python -m validation device-report` reads.
    public func json() throws -> Data {
        let encoder = JSONEncoder()
        encoder.keyEncodingStrategy = .convertToSnakeCase
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys]
        encoder.nonConformingFloatEncodingStrategy = .convertToString(
            positiveInfinity: "inf", negativeInfinity: "-inf", nan: "nan")
        return try encoder.encode(self)
    }

    /// Name of this device's model.
    static var deviceModel: String {
        var info = utsname()
        guard uname(&info) == 0 else { return "unknown" }
        return withUnsafeBytes(of: &info.machine) { bytes in
            String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
        }
    }
}
