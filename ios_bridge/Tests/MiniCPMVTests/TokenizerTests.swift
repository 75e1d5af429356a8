import XCTest

@testable import MiniCPMV

/// With the small tokenizer that comes with the repository. Ids are the `tokenizers` library's:
///
///     Tokenizer.from_file("export/pocket/tokenizer.json").encode(TEXT).ids
final class TokenizerTests: XCTestCase {
    private func pocket() throws -> Tokenizer {
        try Tokenizer(contentsOf: Repository.url("export/pocket/tokenizer.json"))
    }

    /// Merges change with the default model; that they are applied as the library applies them is
    /// compared in bulk from Python.
    func testTextIsMergedAndComesBack() throws {
        let tokenizer = try pocket()
        for text in ["hello world, it's 12", "What does the sign say?\n", ""] {
            let ids = tokenizer.encode(text)
            XCTAssertEqual(tokenizer.decode(ids), text)
            XCTAssertLessThanOrEqual(ids.count, text.utf8.count)
        }
        XCTAssertLessThan(tokenizer.encode("What does the sign say?\n").count, 10)
        // No merge has bytes beyond ASCII: a token a byte, numbered as GPT-2's table of bytes.
        XCTAssertEqual(
            tokenizer.encode("这是什么？"),
            [164, 123, 247, 162, 246, 107, 160, 119, 222, 160, 117, 230, 171, 120, 253])
    }

    func testSpecialTokensInTextStayLetters() throws {
        let tokenizer = try pocket()
        for content in ["<|im_start|>", "<unk>", "</think>"] {
            let id = try tokenizer.tokenId(content)
            let ids = tokenizer.encode("a\(content)b")
            XCTAssertFalse(ids.contains(id))
            XCTAssertEqual(tokenizer.decode(ids), "a\(content)b")
            XCTAssertEqual(tokenizer.decode([id], skippingSpecial: false), content)
        }
    }

    func testUnknownTokenIsNamed() throws {
        let tokenizer = try pocket()
        XCTAssertThrowsError(try tokenizer.tokenId("<nope>")) {
            XCTAssertTrue($0.localizedDescription.contains("<nope>"))
        }
    }

    func testStreamHoldsBackAnIncompleteCharacter() throws {
        let tokenizer = try pocket()
        // A token a byte, whatever the merges are.
        let bytes = try "é🎉".utf8.map { byte in
            try XCTUnwrap((0..<tokenizer.vocabSize).first { tokenizer.bytes(of: $0) == [byte] })
        }
        var stream = StreamDecoder(tokenizer)
        XCTAssertEqual(bytes.map { stream.push($0) }, ["", "é", "", "", "", "🎉"])
        XCTAssertEqual(stream.flush(), "")
        let cut = bytes.dropLast().map { stream.push($0) }.joined()
        XCTAssertEqual(cut + stream.flush(), "é\u{FFFD}")
        XCTAssertEqual(stream.flush(), "")
    }

    func testSpecialTokensAreSkippedOnRequest() throws {
        let tokenizer = try pocket()
        let end = try tokenizer.tokenId("<|im_end|>")
        XCTAssertEqual(tokenizer.decode([end]), "")
        XCTAssertTrue(tokenizer.isSpecial(end))
        XCTAssertEqual(tokenizer.decode([tokenizer.vocabSize + 7, -1]), "")
    }

    /// Examples of the expression's rules, each with its words.
    func testWords() {
        let examples: [[String]] = [
            ["don", "'t", " they", "'LL", " '", "quoted", "'"], ["it", "'ſ"], ["a", "1", "2", " b"],
            [" ", " b"], ["\t", "\t", "5"], ["a", " \n\n", " b"], ["x", "   "], ["\r\n", "c"],
            ["f", "(x", ");\n", "return"], ["图", "。\n"], [" !!\n\n", "y"], ["\u{3000}", "1"],
        ]
        for words in examples {
            XCTAssertEqual(split(words.joined()), words)
        }
    }

    private func split(_ text: String) -> [String] {
        Array(text.utf8).withUnsafeBufferPointer { bytes in
            let splitter = WordSplitter(bytes)
            var words: [String] = []
            var start = 0
            while start < bytes.count {
                let end = splitter.endOfWord(from: start)
                words.append(String(decoding: bytes[start..<end], as: UTF8.self))
                start = end
            }
            return words
        }
    }

    /// Examples of Unicode Standard Annex 15.
    func testNormalFormC() {
        let examples: [([UInt32], [UInt32])] = [
            ([0x212B], [0xC5]), ([0x2126], [0x3A9]), ([0x41, 0x30A], [0xC5]),
            ([0x6F, 0x302], [0xF4]), ([0x1E9B, 0x323], [0x1E9B, 0x323]),
            ([0x73, 0x307, 0x323], [0x1E69]), ([0x1E0B, 0x323], [0x1E0D, 0x307]),
            ([0x71, 0x307, 0x323], [0x71, 0x323, 0x307]), ([0xFB01], [0xFB01]),
            ([0x1100, 0x1161, 0x11A8], [0xAC01]), ([0x0958], [0x0915, 0x093C]),
        ]
        for (given, expected) in examples {
            let text = String(String.UnicodeScalarView(given.compactMap(Unicode.Scalar.init)))
            let found = Normalization.shared.composed("a b" + text).unicodeScalars.map(\.value)
            XCTAssertEqual(Array(found.dropFirst(3)), expected)
        }
    }
}
