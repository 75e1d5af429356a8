import XCTest

@testable import MiniCPMV
@testable import MiniCPMVCommand

/// Conversations that Python held with the default model; `make recordings` writes them.
final class RecordedSessionTests: XCTestCase {
    private func recordings() throws -> [URL] {
        let folder = Repository.url(".build/recordings")
        let found = try? FileManager.default.contentsOfDirectory(
            at: folder, includingPropertiesForKeys: nil)
        guard let found, !found.isEmpty else {
            throw XCTSkip("\(folder.path) holds no recordings; `make recordings` writes them")
        }
        return found.sorted { $0.path < $1.path }
    }

    private func replay(_ recording: URL, script: String = "script.json") throws -> Replay {
        try Replay(
            bundle: recording.appendingPathComponent("bundle"),
            script: recording.appendingPathComponent(script))
    }

    func testEveryConversationHasTheAnswersOfPython() async throws {
        for recording in try recordings() {
            let name = recording.lastPathComponent
            let replay = try replay(recording)
            let outcomes = try await replay.outcomes()
            XCTAssertEqual(outcomes, replay.expected, name)
            XCTAssertEqual(replay.remainingCalls, 0, name)
            let differing = replay.differences.filter { $0.value != 0 }.keys
            XCTAssertTrue(differing.allSatisfy { $0 == "resampler.score_bias" }, "\(differing)")
        }
    }

    func testABundleInPartsIsVerifiedAndAnswersTheSame() async throws {
        let recording = try XCTUnwrap(
            try recordings().first { $0.lastPathComponent == "picture-state" })
        let folder = FileManager.default.temporaryDirectory
            .appendingPathComponent(UUID().uuidString)
        defer { try? FileManager.default.removeItem(at: folder) }
        let packs = try spread(recording.appendingPathComponent("bundle"), in: folder)
        let script = try Input.json(
            recording.appendingPathComponent("script.json").path, as: ReplayScript.self)
        let engines = try RecordedEngines(
            calls: recording.appendingPathComponent(script.calls),
            values: recording.appendingPathComponent(script.values), tolerance: script.tolerance)
        let model = try await MiniCPMV.load(
            bundle: BundleFolders(packs),
            configuration: Configuration(
                cacheFolder: folder.appendingPathComponent("cache"),
                packages: SourcePackages(engines)))
        XCTAssertEqual(model.state, .ready)
        let answer = try script.turns[0].stream(model.chat(), recording)
        let outcome = await ReplayOutcome(of: answer)
        XCTAssertEqual([outcome], script.expected)
        // Which was not for want of looking.
        let missing = BundleFolders(Array(packs.dropLast()))
        do {
            let other = Configuration(
                cacheFolder: folder.appendingPathComponent("cache"), prewarms: false,
                packages: SourcePackages(engines))
            _ = try await MiniCPMV.load(bundle: missing, configuration: other)
            XCTFail("was opened")
        } catch let error as MiniCPMVError {
            XCTAssertEqual(error.caseName, "missingFile")
        }
    }

    /// The files of a bundle in three folders: the manifest first, then in turn.
    private func spread(_ bundle: URL, in folder: URL) throws -> [URL] {
        let packs = (0..<3).map { folder.appendingPathComponent("pack-\($0)") }
        let files = try ModelBundle(folder: bundle).manifest.files.map(\.path)
        for (number, path) in ([Manifest.fileName] + files).enumerated() {
            let target = packs[number % 3].appendingPathComponent(path)
            try FileManager.default.createDirectory(
                at: target.deletingLastPathComponent(), withIntermediateDirectories: true)
            try FileManager.default.copyItem(at: bundle.appendingPathComponent(path), to: target)
        }
        return packs
    }

    func testTheConversationsReachWhatASessionCanDo() throws {
        let scripts = try recordings().map {
            try Input.json(
                $0.appendingPathComponent("script.json").path, as: ReplayScript.self)
        }
        let turns = scripts.flatMap(\.turns)
        let parts = turns.flatMap { ($0.messages ?? []).flatMap(\.parts) }
        XCTAssertTrue(parts.contains { $0.image != nil })
        XCTAssertTrue(parts.contains { ($0.frames ?? []).count > 6 }, "more than one group")
        XCTAssertTrue(turns.contains { $0.enableThinking == true })
        XCTAssertTrue(turns.contains { $0.seed != nil })
        let outcomes = scripts.flatMap(\.expected)
        XCTAssertEqual(turns.count, outcomes.count)
        let reasons: Set = ["stop", "length", "context_full", "cancelled"]
        XCTAssertEqual(Set(outcomes.compactMap(\.finishReason)), reasons)
        XCTAssertTrue(outcomes.contains { $0.error != nil })
        XCTAssertTrue(outcomes.contains { $0.reusedTokens > 16 })
        let kinds = try recordings().map {
            try ModelBundle(folder: $0.appendingPathComponent("bundle")).manifest.decoding.kvCache
        }
        XCTAssertEqual(Set(kinds), Set(KeyValueCacheKind.allCases))
    }

    func testAnotherConversationIsNoticed() async throws {
        let found = try recordings()
        let video = try XCTUnwrap(found.first { $0.lastPathComponent == "video-state" })
        let thinking = try XCTUnwrap(found.first { $0.lastPathComponent == "thinking-state" })
        let folder = FileManager.default.temporaryDirectory
            .appendingPathComponent(UUID().uuidString)
        defer { try? FileManager.default.removeItem(at: folder) }
        try FileManager.default.copyItem(at: thinking, to: folder)
        for name in ["calls.json", "values.raw"] {
            let file = folder.appendingPathComponent(name)
            try FileManager.default.removeItem(at: file)
            try FileManager.default.copyItem(at: video.appendingPathComponent(name), to: file)
        }
        let replay = try replay(folder)
        let outcomes = try await replay.outcomes()
        XCTAssertNotEqual(outcomes, replay.expected)
        XCTAssertTrue(outcomes[0].error?.contains("recorded") ?? false, "\(outcomes)")
    }
}
