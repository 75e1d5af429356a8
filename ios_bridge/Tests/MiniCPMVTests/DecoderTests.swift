import XCTest

@testable import MiniCPMV

final class DecoderTests: XCTestCase {
    private func rows(_ count: Int) -> [Float] {
        (0..<count * ToyModel.width).map { Float(sin(Double($0))) }
    }

    private func run(
        _ decoder: inout Decoder, _ rows: [Float], _ range: Range<Int>
    ) throws -> [Float] {
        try decoder.run(
            count: range.count, position: range.lowerBound,
            rows: { block in
                let start = range.lowerBound + block.lowerBound
                return Array(rows[start * ToyModel.width..<(start + block.count) * ToyModel.width])
            })
    }

    private func assertEqual(_ left: [Float], _ right: [Float], line: UInt = #line) {
        XCTAssertEqual(left.count, right.count, line: line)
        for (a, b) in zip(left, right) { XCTAssertEqual(a, b, accuracy: 1e-5, line: line) }
    }

    func testBlocksAtAnyStartEqualSingleRows() throws {
        let rows = rows(ToyModel.context)
        for kind in KeyValueCacheKind.allCases {
            let toy = try ToyModel(kvCache: kind)
            var single = try toy.decoder()
            let expected = try (0..<ToyModel.context).map {
                try run(&single, rows, $0..<$0 + 1)
            }
            for start in Array(stride(from: 0, to: 75, by: 9)) + Array(79...83) + [94, 95] {
                for end in [start + 1, start + 7, start + 40, ToyModel.context]
                where end <= ToyModel.context {
                    var decoder = try toy.decoder()
                    if start > 0 { _ = try run(&decoder, rows, 0..<start) }
                    assertEqual(try run(&decoder, rows, start..<end), expected[end - 1])
                }
            }
        }
    }

    func testBothKindsOfCacheGiveTheSame() throws {
        let rows = rows(50)
        var results: [[Float]] = []
        for kind in KeyValueCacheKind.allCases {
            var decoder = try ToyModel(kvCache: kind).decoder()
            _ = try run(&decoder, rows, 0..<20)
            results.append(try run(&decoder, rows, 20..<50))
        }
        assertEqual(results[0], results[1])
    }

    func testBlocksNearTheEndOfTheCacheAreSingleRows() throws {
        let toy = try ToyModel(packages: 1)
        var decoder = try toy.decoder()
        _ = try run(&decoder, rows(96), 0..<78)
        toy.engines.forget()
        // Up to 94 one block fits; the two rows after it would pass the end with their padding.
        _ = try run(&decoder, rows(96), 78..<96)
        XCTAssertEqual(
            toy.engines.calls,
            ["decoder_0 prefill 78", "decoder_0 decode 94", "decoder_0 decode 95"])
    }

    func testOneRowIsDecodedAndTwoAreABlock() throws {
        let toy = try ToyModel(packages: 2)
        var decoder = try toy.decoder()
        _ = try run(&decoder, rows(3), 0..<2)
        _ = try run(&decoder, rows(3), 2..<3)
        XCTAssertEqual(
            toy.engines.calls,
            [
                "decoder_0 prefill 0", "decoder_1 prefill 0", "decoder_0 decode 2",
                "decoder_1 decode 2",
            ])
    }

    func testRowsPastTheContextAreRefusedBeforeAnythingRuns() throws {
        let toy = try ToyModel()
        var decoder = try toy.decoder()
        XCTAssertThrowsError(try run(&decoder, rows(97), 0..<97)) { error in
            XCTAssertEqual((error as? MiniCPMVError)?.caseName, "contextFull")
        }
        XCTAssertEqual(toy.engines.calls, [])
    }

    func testLogitsOfPaddingAreCut() throws {
        let toy = try ToyModel()
        let logits = try toy.decoder().logits([1, 0, 0, 0])
        XCTAssertEqual(logits.count, toy.tokenizer.vocabSize)
        XCTAssertEqual(logits[5], sin(10), accuracy: 1e-6)
    }
}
