import XCTest
import Synchronization

@testable import MiniCPMV

final class ModelTests: XCTestCase {
    private let eight = ChatOptions(sampling: SamplingOptions(maxNewTokens: 8))

    private func open(
        _ toy: ToyModel, _ packages: ScriptedPackages,
        progress: (@Sendable (ModelState) -> Void)? = nil
    ) throws -> MiniCPMV {
        let configuration = Configuration(packages: packages, progress: progress)
        let library = EngineLibrary(
            toy.manifest, opener: packages, policy: configuration.policy,
            memory: configuration.memory)
        let folder = toy.folder
        let model = try ChatModel(
            manifest: toy.manifest, tokenizer: toy.tokenizer, engines: library,
            locate: { folder.appendingPathComponent($0) })
        return MiniCPMV(
            model, library, packages, configuration, StatusBoard(progress), manifestSHA256: "")
    }

    func testPrewarmingOpensPackagesInOrderAndSaysSo() async throws {
        let toy = try ToyModel()
        let packages = ScriptedPackages(engines: toy.engines)
        let seen = Mutex<[String]>([])
        let model = try open(toy, packages) { state in
            if case .loading(let package, _) = state { seen.withLock { $0.append(package) } }
        }
        XCTAssertEqual(model.state, .unloaded)
        try await model.prewarm()
        XCTAssertEqual(model.state, .ready)
        let names = toy.manifest.graphs.map(\.name)
        XCTAssertEqual(seen.withLock { $0 }, names)
        XCTAssertEqual(packages.opened, names.map { "\($0) neural_engine" })
        XCTAssertEqual(model.placements.map(\.package), names)
    }

    func testPrewarmingTwiceAtOnceOpensOnce() async throws {
        let toy = try ToyModel()
        let packages = ScriptedPackages(engines: toy.engines)
        let model = try open(toy, packages)
        async let first: Void = model.prewarm()
        async let second: Void = model.prewarm()
        _ = try await (first, second)
        XCTAssertEqual(packages.opened.count, toy.manifest.graphs.count)
    }

    func testListenersHearTheStateAndItsChanges() async throws {
        let toy = try ToyModel()
        let model = try open(toy, ScriptedPackages(engines: toy.engines))
        let states = model.states
        try await model.prewarm()
        var heard: [ModelState] = []
        for await state in states {
            heard.append(state)
            if state == .ready { break }
        }
        XCTAssertEqual(heard.first, .unloaded)
        XCTAssertEqual(heard.count, toy.manifest.graphs.count + 2)
    }

    func testTheFaceGivesTheAnswerOfTheSession() async throws {
        let toy = try ToyModel()
        let expected = try toy.chat().stream("Hi", options: eight)
        let text = try await expected.text()
        let model = try open(toy, ScriptedPackages(engines: toy.engines))
        let answer = try model.chat().stream("Hi", options: eight)
        var pieces = ""
        for try await piece in answer { pieces += piece }
        XCTAssertEqual(pieces, text)
        XCTAssertEqual(answer.tokenIds, expected.tokenIds)
        let statistics = answer.statistics
        XCTAssertGreaterThan(statistics.tokensPerSecond, 0)
        XCTAssertGreaterThan(statistics.secondsToFirstToken, 0)
        XCTAssertGreaterThan(statistics.peakMemoryBytes, 1 << 20)
    }

    func testUnloadingClosesAndTheNextChatOpensAgain() async throws {
        let toy = try ToyModel()
        let packages = ScriptedPackages(engines: toy.engines)
        let model = try open(toy, packages)
        try await model.prewarm()
        model.unload()
        XCTAssertEqual(model.state, .unloaded)
        XCTAssertEqual(model.library.openPackages, [])
        _ = try await model.chat().stream("Hi", options: eight).text()
        XCTAssertEqual(model.library.openPackages, ["decoder_0", "decoder_1", "head"])
    }

    func testAPackageThatFailsLeavesNothingOpen() async throws {
        let toy = try ToyModel()
        let failing = ScriptedPackages([
            .neuralEngine: .init(failure: "No."), .gpu: .init(failure: "No."),
            .cpu: .init(failure: "No."),
        ])
        let model = try open(toy, failing)
        do {
            try await model.prewarm()
            XCTFail("was opened")
        } catch let error as MiniCPMVError {
            XCTAssertEqual(error.caseName, "modelFailure")
        }
        XCTAssertEqual(model.state, .unloaded)
        XCTAssertEqual(model.library.openPackages, [])
    }

    func testThinkingIsOneWord() {
        let options = ChatOptions(enableThinking: true, maxSliceNums: 4)
        XCTAssertEqual(options.prompt, PromptOptions(enableThinking: true))
        XCTAssertEqual(options.maxSliceNums, 4)
    }
}
