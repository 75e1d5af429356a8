import XCTest

@testable import MiniCPMV

final class PositionTests: XCTestCase {
    /// Rows where the published rule is not ⌊70 · i / n⌋, as found in the published code on x86.
    private let different: [Int: [Int: Int]] = [
        25: [5: 13, 10: 27, 15: 41, 20: 55],
        49: [7: 9, 14: 19, 35: 49, 42: 59],
        50: [5: 6, 10: 13, 15: 20, 20: 27, 30: 41, 40: 55],
        55: [11: 13, 22: 27, 33: 41, 44: 55],
        58: [29: 34],
    ]

    func testBucketsAreTheFloorExceptWherePublished() {
        for count in 1...70 {
            let expected = (0..<count).map { different[count]?[$0] ?? $0 * 70 / count }
            XCTAssertEqual(BucketPositions.buckets(count: count, buckets: 70), expected)
        }
    }

    func testPositionIdsAreRowMajor() {
        XCTAssertEqual(
            BucketPositions.positionIds(Grid(columns: 3, rows: 2), buckets: 70),
            [0, 23, 46, 2450, 2473, 2496])
    }

    func testSinCosOfZeroIsZerosThenOnes() {
        XCTAssertEqual(SinCosTables.positions([0], dim: 6), [0, 0, 0, 1, 1, 1])
    }

    func testTheColumnsHalfComesFirst() {
        let table = SinCosTables.grid(Grid(columns: 3, rows: 2), dim: 16)
        let last = SinCosTables.positions([2], dim: 8) + SinCosTables.positions([1], dim: 8)
        XCTAssertEqual(Array(table[5 * 16..<6 * 16]), last)
    }

    func testTimeMinusOneIsNoTime() {
        let table = SinCosTables.times([-1, 500], dim: 8)
        XCTAssertEqual(Array(table[..<8]), [Float](repeating: 0, count: 8))
        XCTAssertEqual(Array(table[8...]), SinCosTables.positions([500], dim: 8))
    }

    func testRotationOfPositionZeroTurnsNothing() {
        let tables = RotaryTables(headDim: 8, theta: 1e6).tables(0..<1)
        XCTAssertEqual(tables.cos, [Float](repeating: 1, count: 8))
        XCTAssertEqual(tables.sin, [Float](repeating: 0, count: 8))
    }

    func testMasksShowTheRowsBefore() {
        let (shown, hidden) = (Float(0), AttentionMask.masked)
        XCTAssertEqual(
            AttentionMask.state(position: 1, length: 2, context: 4),
            [shown, shown, hidden, hidden, shown, shown, shown, hidden])
        XCTAssertEqual(
            AttentionMask.io(position: 1, length: 2, context: 3),
            [shown, hidden, hidden, shown, hidden, shown, hidden, hidden, shown, shown])
    }

    func testHalfPrecisionBits() {
        for (bits, value) in [
            (0x0000, 0), (0x3C00, 1), (0xC000, -2), (0x7BFF, 65504), (0x0001, 0x1p-24),
            (0x83FF, -0x1.FF8p-15), (0x3555, 0x1.554p-2),
        ] as [(UInt16, Float)] {
            XCTAssertEqual(Float(halfBits: bits), value)
        }
        XCTAssertEqual(Float(halfBits: 0xFC00), -.infinity)
        XCTAssertTrue(Float(halfBits: 0x7E00).isNaN)
        XCTAssertEqual(Float(halfBits: 0x8000).sign, .minus)
    }
}
