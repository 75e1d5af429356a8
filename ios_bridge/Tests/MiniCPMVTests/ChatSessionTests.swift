import XCTest

@testable import MiniCPMV

final class ChatSessionTests: XCTestCase {
    private let eight = ChatOptions(sampling: SamplingOptions(maxNewTokens: 8))

    private func picture(_ level: UInt8) throws -> RGBImage {
        let pixels = (0..<60 * 40 * 3).map { UInt8(truncatingIfNeeded: $0) &* level }
        return try RGBImage(width: 60, height: 40, pixels: pixels)
    }

    func testReusedCacheGivesTheAnswerOfAFreshSession() async throws {
        for kind in KeyValueCacheKind.allCases {
            let toy = try ToyModel(kvCache: kind)
            let session = try toy.chat()
            let messages = [ChatMessage(.user, [.image(try picture(3)), .text("Hi")])]
            let first = session.stream(messages: messages, options: eight)
            let text = try await first.text()
            let second = messages + [ChatMessage(.assistant, text), ChatMessage(.user, "And")]
            let reused = session.stream(messages: second, options: eight)
            _ = try await reused.text()
            let fresh = try toy.chat().stream(messages: second, options: eight)
            _ = try await fresh.text()
            XCTAssertEqual(fresh.statistics.reusedTokens, 0)
            XCTAssertGreaterThan(reused.statistics.reusedTokens, 6)
            XCTAssertEqual(reused.tokenIds, fresh.tokenIds)
            XCTAssertEqual(reused.tokenIds.count, 8)
            XCTAssertEqual(reused.finishReason, .length)
        }
    }

    func testQuestionsGoOnWithTheConversation() async throws {
        let toy = try ToyModel()
        let session = try toy.chat()
        let shown = try picture(5)
        let text = try await session.stream("One", images: [shown], options: eight).text()
        let second = session.stream("Two", options: eight)
        _ = try await second.text()
        let told = [
            ChatMessage(.user, [.image(shown), .text("One")]), ChatMessage(.assistant, text),
            ChatMessage(.user, "Two"),
        ]
        let whole = try toy.chat().stream(messages: told, options: eight)
        _ = try await whole.text()
        XCTAssertEqual(second.tokenIds, whole.tokenIds)
        XCTAssertEqual(second.statistics.promptTokens, whole.statistics.promptTokens)
    }

    func testAPictureIsEncodedOnceAndAnotherOneAgain() async throws {
        let toy = try ToyModel()
        let session = try toy.chat()
        func ask(_ level: UInt8) async throws -> Int {
            toy.engines.forget()
            let message = ChatMessage(.user, [.image(try picture(level)), .text("Which")])
            _ = try await session.stream(messages: [message], options: eight).text()
            return toy.engines.calls.filter { $0.hasPrefix("vision") }.count
        }
        let counts = try await [ask(1), ask(1), ask(2)]
        XCTAssertEqual(counts, [1, 0, 1])
    }

    func testCancellingInTheAnswerKeepsWhatWasWritten() async throws {
        let toy = try ToyModel(packages: 1)
        let session = try toy.chat()
        let slot = AnswerSlot()
        toy.engines.beforeEachCall { call in
            guard call.contains("decode") else { return }
            if slot.answer.tokenIds.count == 3 { slot.answer.cancel() }
        }
        let answer = slot.put(session.stream("Hi", options: eight))
        let text = try await answer.text()
        XCTAssertEqual(answer.finishReason, .cancelled)
        XCTAssertEqual(answer.tokenIds.count, 3)
        toy.engines.beforeEachCall { _ in }
        let next = session.stream("Go on", options: eight)
        _ = try await next.text()
        let told = [
            ChatMessage(.user, "Hi"), ChatMessage(.assistant, text), ChatMessage(.user, "Go on"),
        ]
        let fresh = try toy.chat().stream(messages: told, options: eight)
        _ = try await fresh.text()
        XCTAssertEqual(next.tokenIds, fresh.tokenIds)
    }

    func testCancellingInThePromptKeepsTheBlocksThatRan() async throws {
        let toy = try ToyModel(packages: 1)
        let session = try toy.chat()
        let message = [ChatMessage(.user, String(repeating: "ab ", count: 12))]
        let slot = AnswerSlot()
        toy.engines.beforeEachCall { if $0 == "decoder_0 prefill 16" { slot.answer.cancel() } }
        let answer = slot.put(session.stream(messages: message, options: eight))
        let text = try await answer.text()
        XCTAssertEqual(text, "")
        XCTAssertEqual(answer.finishReason, .cancelled)
        toy.engines.beforeEachCall { _ in }
        let again = session.stream(messages: message, options: eight)
        _ = try await again.text()
        XCTAssertEqual(again.statistics.reusedTokens, 32)
        let fresh = try toy.chat().stream(messages: message, options: eight)
        _ = try await fresh.text()
        XCTAssertEqual(again.tokenIds, fresh.tokenIds)
    }

    func testLeavingTheLoopCancels() async throws {
        let toy = try ToyModel(packages: 1)
        let session = try toy.chat()
        let slot = AnswerSlot()
        toy.engines.beforeEachCall { call in
            guard call.contains("decode"), !slot.answer.tokenIds.isEmpty else { return }
            let patience = Date(timeIntervalSinceNow: 20)
            while !slot.answer.isCancelled, Date() < patience {
                Thread.sleep(forTimeInterval: 0.001)
            }
            XCTAssertTrue(slot.answer.isCancelled)
        }
        let options = ChatOptions(prompt: PromptOptions(enableThinking: true))
        let answer = slot.put(session.stream("Hi", options: options))
        for try await piece in answer {
            XCTAssertEqual(piece, "<think>\n")
            break
        }
        _ = try await session.stream("Next", options: eight).text()  // after the cancelled one
        XCTAssertEqual(answer.finishReason, .cancelled)
    }

    func testAnAnswerThatIsOverCannotBeCancelled() async throws {
        let answer = try ToyModel().chat().stream("Hi", options: eight)
        _ = try await answer.text()
        answer.cancel()
        XCTAssertFalse(answer.isCancelled)
        XCTAssertEqual(answer.finishReason, .length)
    }

    func testAnAnswerEndsWhereTheContextDoes() async throws {
        let session = try ToyModel().chat()
        let options = ChatOptions(sampling: SamplingOptions(maxNewTokens: 1000))
        let answer = session.stream("Hi", options: options)
        _ = try await answer.text()
        XCTAssertEqual(answer.finishReason, .contextFull)
        let statistics = answer.statistics
        // The last token needs no place: nothing comes after it.
        XCTAssertEqual(statistics.promptTokens + statistics.newTokens, ToyModel.context + 1)
    }

    func testAPromptThatFillsTheContextIsRefusedBeforeItsPicturesAreEncoded() async throws {
        let toy = try ToyModel()
        let long = String(repeating: "ab ", count: 200)
        let answer = try toy.chat().stream(long, images: [try picture(1)])
        do {
            _ = try await answer.text()
            XCTFail("was answered")
        } catch let error as MiniCPMVError {
            XCTAssertEqual(error.caseName, "contextFull")
            XCTAssertTrue(error.sentence.contains("3 of them for pictures"), error.sentence)
        }
        XCTAssertNil(answer.finishReason)
        XCTAssertEqual(toy.engines.calls, [])
    }

    func testImpossibleSettingsAreNamed() async throws {
        let session = try ToyModel().chat()
        for (sampling, name) in [
            (SamplingOptions(temperature: -1), "temperature"), (SamplingOptions(topK: -1), "top_k"),
            (SamplingOptions(topP: 0), "top_p"), (SamplingOptions(topP: .nan), "top_p"),
            (SamplingOptions(repetitionPenalty: 0), "repetition_penalty"),
            (SamplingOptions(maxNewTokens: 0), "max_new_tokens"),
        ] {
            do {
                _ = try await session.stream("Hi", options: ChatOptions(sampling: sampling)).text()
                XCTFail("\(name) was taken")
            } catch let error as MiniCPMVError {
                XCTAssertTrue(error.sentence.hasPrefix(name), error.sentence)
            }
        }
    }

    func testFramesOfAVideoAreOneGroup() async throws {
        let toy = try ToyModel()
        let frames = try (1...3).map { try picture(UInt8($0)) }
        let video = try VideoFrames(frames, temporalIds: [[0, 5, 10]])
        let answer = try toy.chat().stream("What", video: video, options: eight)
        _ = try await answer.text()
        XCTAssertEqual(
            toy.engines.calls.prefix(4),
            ["vision main", "vision main", "vision main", "resampler frames_3"])
    }
}

final class ManifestCheckTests: XCTestCase {
    /// The tampered numbers reach a session only through a manifest that is otherwise whole.
    private func check(
        _ preprocessing: Preprocessing? = nil, decoding: Decoding? = nil,
        tables: HostTables? = nil
    ) throws {
        let whole = try ToyModel().manifest
        let manifest = Manifest(
            schemaVersion: whole.schemaVersion, format: whole.format, model: whole.model,
            architecture: whole.architecture,
            preprocessing: preprocessing ?? whole.preprocessing, prompt: whole.prompt,
            generation: whole.generation, decoding: decoding ?? whole.decoding,
            graphs: whole.graphs, hostTables: tables ?? whole.hostTables, recipe: whole.recipe,
            source: whole.source, tools: whole.tools, files: whole.files)
        try manifest.checkNumbers()
        try manifest.checkTables()
    }

    private func preprocessing(
        patchSize: Int = 14, maxPatches: Int = 24, normStd: [Double] = [1, 1, 1]
    ) -> Preprocessing {
        Preprocessing(
            scaleResolution: 56, patchSize: patchSize, maxSliceNums: 1, sliceMode: true,
            useImageId: true, normMean: [0, 0, 0], normStd: normStd, numQueries: 3,
            positionBuckets: 4, maxPatches: maxPatches)
    }

    private func assertRefused(_ text: String, _ check: () throws -> Void) {
        XCTAssertThrowsError(try check(), text) { error in
            let sentence = (error as? MiniCPMVError)?.sentence ?? "\(error)"
            XCTAssertTrue(sentence.contains(text), sentence)
        }
    }

    func testNumbersThatNoModelHasAreRefused() throws {
        XCTAssertNoThrow(try check(preprocessing()))
        assertRefused("patch_size") { try check(preprocessing(patchSize: 0)) }
        assertRefused("max_patches") { try check(preprocessing(maxPatches: .max)) }
        assertRefused("norm_std") { try check(preprocessing(normStd: [1, 1])) }
        assertRefused("norm_std") { try check(preprocessing(normStd: [1, 0, 1])) }
        let blocks = Decoding(contextLength: 96, prefillLength: 0, kvCache: .state)
        assertRefused("prefill_length") { try check(decoding: blocks) }
    }

    func testTablesOfAnotherModelAreRefused() throws {
        let whole = try ToyModel().manifest.hostTables
        let short = TensorFile(path: "positions", shape: [15, 4], dtype: "float32")
        assertRefused("positions has the shape [15, 4]") {
            try check(
                tables: HostTables(
                    embedTokens: whole.embedTokens, positionEmbeddings: short,
                    resamplerKeyQuery: whole.resamplerKeyQuery))
        }
        assertRefused("resampler_key_query") {
            try check(
                tables: HostTables(
                    embedTokens: whole.embedTokens,
                    positionEmbeddings: whole.positionEmbeddings, resamplerKeyQuery: nil))
        }
    }
}
