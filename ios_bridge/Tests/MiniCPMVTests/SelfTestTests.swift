import XCTest

@testable import MiniCPMV

final class SelfTestTests: XCTestCase {
    private func file(_ header: String, _ values: [Float], length: Int? = nil) throws -> URL {
        let url = FileManager.default.temporaryDirectory
            .appendingPathComponent("\(UUID().uuidString).safetensors")
        var data = withUnsafeBytes(of: UInt64(length ?? header.utf8.count).littleEndian) {
            Data($0)
        }
        data += Data(header.utf8)
        data += values.withUnsafeBytes { Data($0) }
        try data.write(to: url)
        return url
    }

    private func entry(_ shape: [Int], _ offsets: [Int], type: String = "F32") -> String {
        #"{"dtype":"\#(type)","shape":\#(shape),"data_offsets":\#(offsets)}"#
    }

    func testArraysAreReadByName() throws {
        let (x, y) = (entry([2, 1], [0, 8]), entry([1], [8, 12]))
        let header = #"{"__metadata__":{"a":"b"},"x":\#(x),"y":\#(y)}"#
        let arrays = try SafetensorsFile(try file(header, [1, 2, 3]))
        XCTAssertEqual(arrays.names, ["x", "y"])
        XCTAssertEqual(try arrays.tensor("x"), Tensor(shape: [2, 1], values: [1, 2]))
        XCTAssertEqual(try arrays.tensor("y"), Tensor(shape: [1], values: [3]))
        XCTAssertThrowsError(try arrays.tensor("z"))
    }

    func testHeadersThatContradictTheFileAreRefused() throws {
        let wrong = [
            (#"{"x":\#(entry([3], [0, 12]))}"#, nil), (#"{"x":\#(entry([3], [0, 8]))}"#, nil),
            (#"{"x":\#(entry([2], [-8, 0]))}"#, nil), (#"{"x":\#(entry([2], [8, 0]))}"#, nil),
            (#"{"x":\#(entry([1 << 62, 4], [0, 8]))}"#, nil),
            (#"{"x":\#(entry([2], [0, 8], type: "F16"))}"#, nil), ("[]", nil), ("{", nil),
            ("{}", 1 << 40),
        ]
        for (header, length) in wrong {
            XCTAssertThrowsError(
                try SafetensorsFile(try file(header, [1, 2], length: length)), header)
        }
    }

    func testDecibels() {
        XCTAssertEqual(SignalToNoise.decibels([3, 4], [3, 4]), .infinity)
        // The largest is 10, the root mean squared error 1: 20 dB.
        XCTAssertEqual(
            SignalToNoise.decibels([11, -1, 1], [10, 0, 0]), 20, accuracy: 1e-12)
        XCTAssertTrue(SignalToNoise.decibels([.nan], [1]).isNaN)
        XCTAssertTrue(SignalToNoise.decibels([1], [1, 2]).isNaN)
        XCTAssertEqual(SignalToNoise.largest([1, 3, 3, 2][...]), 1)
    }

    func testTheWorstIsReportedAndNoNumberIsWorst() {
        XCTAssertEqual(SelfTest.worst([20, 10, 30]), 10)
        XCTAssertEqual(SelfTest.worst([20, .nan, 30])?.isNaN, true)
        XCTAssertNil(SelfTest.worst([]))
    }

    func testRowsOfPaddedArrays() throws {
        let padded = try ArrayRows(shape: [1, 2, 1, 3], strides: [64, 32, 32, 1], name: "a")
        XCTAssertEqual(padded.length, 3)
        XCTAssertEqual(padded.starts, [0, 32])
        let dense = try ArrayRows(shape: [2, 2, 3], strides: [6, 3, 1], name: "a")
        XCTAssertEqual(dense.length, 12)
        XCTAssertEqual(dense.starts, [0])
        let wide = try ArrayRows(shape: [2, 2, 1], strides: [64, 32, 32], name: "a")
        XCTAssertEqual(wide.length, 1)
        XCTAssertEqual(wide.starts, [0, 32, 64, 96])
        XCTAssertThrowsError(try ArrayRows(shape: [2], strides: [], name: "a"))
    }

    func testPackagesAreCompiledOnce() async throws {
        let folder = FileManager.default.temporaryDirectory
            .appendingPathComponent(UUID().uuidString)
        let target = folder.appendingPathComponent("compiled/a.mlmodelc")
        var compilations = 0
        for _ in 0..<2 {
            let made = folder.appendingPathComponent("made")
            let placed = try await CompiledPackages.place(target) {
                compilations += 1
                try FileManager.default.createDirectory(
                    at: made, withIntermediateDirectories: true)
                return made
            }
            XCTAssertEqual(placed, target)
        }
        XCTAssertEqual(compilations, 1)
        XCTAssertTrue(FileManager.default.fileExists(atPath: target.path))
    }
}

final class OrientationTests: XCTestCase {
    /// Pixels 1 2 3 / 4 5 6, and how they stand upright by the definition of EXIF's tag.
    func testEveryOrientation() throws {
        let image = try RGBImage(
            width: 3, height: 2, pixels: (1...6).flatMap { [UInt8($0), 0, 0] })
        let expected: [(ImageOrientation, Int, [UInt8])] = [
            (.up, 3, [1, 2, 3, 4, 5, 6]), (.upMirrored, 3, [3, 2, 1, 6, 5, 4]),
            (.down, 3, [6, 5, 4, 3, 2, 1]), (.downMirrored, 3, [4, 5, 6, 1, 2, 3]),
            (.leftMirrored, 2, [1, 4, 2, 5, 3, 6]), (.right, 2, [4, 1, 5, 2, 6, 3]),
            (.rightMirrored, 2, [6, 3, 5, 2, 4, 1]), (.left, 2, [3, 6, 2, 5, 1, 4]),
        ]
        XCTAssertEqual(expected.map { $0.0 }, ImageOrientation.allCases)
        for (orientation, width, reds) in expected {
            let upright = image.upright(from: orientation)
            XCTAssertEqual(upright.width, width)
            XCTAssertEqual(upright.height, 6 / width)
            XCTAssertEqual(
                stride(from: 0, to: 18, by: 3).map { upright.pixels[$0] }, reds,
                "\(orientation)")
        }
    }
}
