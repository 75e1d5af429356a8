import XCTest

@testable import MiniCPMV

/// What the published template writes, with one placeholder a view.
final class PromptEncoderTests: XCTestCase {
    private let view = "<image><unk></image>"
    private let opening = "<|im_start|>assistant\n"

    private func encoder(useImageId: Bool = true) throws -> PromptEncoder {
        let tokenizer = try Tokenizer(
            contentsOf: Repository.url("export/pocket/tokenizer.json"))
        let contents: [ControlToken: String] = [
            .messageStart: "<|im_start|>", .messageEnd: "<|im_end|>", .thinkStart: "<think>",
            .thinkEnd: "</think>", .imageStart: "<image>", .imageEnd: "</image>",
            .sliceStart: "<slice>", .sliceEnd: "</slice>", .imageIdStart: "<image_id>",
            .imageIdEnd: "</image_id>", .imagePlaceholder: "<unk>",
        ]
        let tokens = try contents.map { control, content in
            (control.rawValue, SpecialToken(content: content, id: try tokenizer.tokenId(content)))
        }
        return try PromptEncoder(
            tokenizer: tokenizer,
            prompt: Prompt(
                specialTokens: Dictionary(uniqueKeysWithValues: tokens), stopTokenIds: [],
                chatTemplate: ""),
            preprocessing: Preprocessing(
                scaleResolution: 448, patchSize: 14, maxSliceNums: 9, sliceMode: true,
                useImageId: useImageId, normMean: [0.5, 0.5, 0.5], normStd: [0.5, 0.5, 0.5],
                numQueries: 1, positionBuckets: 70, maxPatches: 1088))
    }

    private let free = PromptOptions(enableThinking: nil)

    func testThinkingSwitch() throws {
        let question = "<|im_start|>user\nHi<|im_end|>\n" + opening
        let turns = [ChatTurn(.user, "Hi")]
        for (thinking, end) in [
            (nil, ""), (true, "<think>\n"), (false, "<think>\n\n</think>\n\n"),
        ] as [(Bool?, String)] {
            let options = PromptOptions(enableThinking: thinking)
            XCTAssertEqual(
                try encoder().encode(turns, options: options).text, question + end)
        }
    }

    func testEarlierThoughtsAreDropped() throws {
        let turns = [
            ChatTurn(.system, "Be brief."), ChatTurn(.user, "Q"),
            ChatTurn(.assistant, "<think>\nhm\n</think>\n\nA"), ChatTurn(.user, "And?"),
        ]
        XCTAssertEqual(
            try encoder().encode(turns, options: free).text,
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nQ<|im_end|>\n"
                + "<|im_start|>assistant\nA<|im_end|>\n<|im_start|>user\nAnd?<|im_end|>\n"
                + opening)
    }

    func testPlaceholderOfASlicedImage() throws {
        let turn = ChatTurn(.user, [.text("a"), .media(.image), .media(.image)])
        let media = [
            MediaLayout(grids: [Grid(columns: 3, rows: 2)]), MediaLayout(grids: [nil]),
        ]
        let encoded = try encoder().encode([turn], media: media, options: free)
        let row = String(repeating: "<slice><unk></slice>", count: 3)
        XCTAssertEqual(
            encoded.text,
            "<|im_start|>user\na\n<image_id>0</image_id>\(view)\(row)\n\(row)\n"
                + "<image_id>1</image_id>\(view)<|im_end|>\n" + opening)
        XCTAssertEqual(encoded.groups.map(\.view), [0, 1, 2, 3, 4, 5, 6, 0])
        XCTAssertEqual(encoded.groups.last?.frames, 1..<2)
        XCTAssertEqual(encoded.imageBound.map(\.count), [Int](repeating: 1, count: 8))
    }

    func testVideoFramesOfAGroupShareOnePlaceholder() throws {
        let turn = ChatTurn(.user, [.media(.video), .text("What?")])
        let video = MediaLayout(
            grids: [nil, nil, nil, nil, nil], temporalIds: [[0, 2], [4, 6], [8]])
        let encoded = try encoder().encode([turn], media: [video], options: free)
        XCTAssertEqual(
            encoded.text,
            "<|im_start|>user\n\(view)\n\(view)\n\(view)\nWhat?<|im_end|>\n" + opening)
        XCTAssertEqual(encoded.groups.map(\.frames), [0..<2, 2..<4, 4..<5])
        XCTAssertEqual(encoded.groups.map(\.temporalIds), [[0, 2], [4, 6], [8]])
    }

    func testTextBeforeALaterFrameIsStrippedWhole() throws {
        let turns = [
            ChatTurn(
                .user,
                [.media(.image), .text("  one \r\n"), .media(.image), .text(" two ")]),
            ChatTurn(.assistant, " ok "),
            ChatTurn(.user, [.text("\n"), .media(.image), .text("three")]),
        ]
        let options = PromptOptions(
            enableThinking: nil, useImageId: true, temporalIds: [[1, 2, 3]])
        let media = [MediaLayout](repeating: MediaLayout(grids: [nil]), count: 3)
        XCTAssertEqual(
            try encoder().encode(turns, media: media, options: options).text,
            "<|im_start|>user\n<image_id>0</image_id>\(view)onetwo <|im_end|>\n"
                + "<|im_start|>assistant\n ok <|im_end|>\n<|im_start|>user\nthree<|im_end|>\n"
                + opening)
    }

    func testWhatTheFormatCannotSayIsRefused() throws {
        let encoder = try encoder()
        let image = MediaLayout(grids: [nil])
        let refused: [([ChatTurn], [MediaLayout], String)] = [
            ([], [], "Messages must be a list"),
            ([ChatTurn(.system, [.media(.image)])], [image], "only the user's may"),
            ([ChatTurn(.user, [.media(.image)])], [], "1 pictures and videos, 0 layouts"),
            (
                [ChatTurn(.user, [.media(.video)])],
                [MediaLayout(grids: [nil, Grid(columns: 2, rows: 1)], temporalIds: [[0, 1]])],
                "sliced differently"
            ),
            (
                [ChatTurn(.user, [.media(.video)])],
                [MediaLayout(grids: [nil, nil], temporalIds: [[0]])], "describes 1 pictures"
            ),
        ]
        for (turns, media, text) in refused {
            XCTAssertThrowsError(try encoder.encode(turns, media: media), text) {
                XCTAssertTrue($0.localizedDescription.contains(text), $0.localizedDescription)
            }
        }
    }
}
