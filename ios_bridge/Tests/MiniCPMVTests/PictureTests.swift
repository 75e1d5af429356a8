import XCTest

@testable import MiniCPMV

extension Preprocessing {
    /// The constants of the published preprocessor_config.json.
    static let published = Preprocessing(
        scaleResolution: 448, patchSize: 14, maxSliceNums: 9, sliceMode: true, useImageId: true,
        normMean: [0.5, 0.5, 0.5], normStd: [0.5, 0.5, 0.5], numQueries: 64,
        positionBuckets: 70, maxPatches: 1088)
}

/// What the published processor makes of the golden pictures: `tests/golden/preprocess.json`.
final class GoldenPictureTests: XCTestCase {
    private struct Entry: Decodable {
        let size: [Int]
        let k: Int
        let grid: [Int]?
        let tgt_sizes: [[Int]]
        let sha256: [String]
    }

    /// The picture of `tests/golden/README.md`.
    private func picture(_ width: Int, _ height: Int, _ k: Int) throws -> RGBImage {
        let radius = 0.3 * Double(min(width, height))
        var pixels: [UInt8] = []
        for row in 0..<height {
            for column in 0..<width {
                let (x, y, k) = (Double(column), Double(row), Double(k))
                let r = (x * 255 / Double(max(width - 1, 1)) + 17 * k)
                    .truncatingRemainder(dividingBy: 256)
                let g = (y * 255 / Double(max(height - 1, 1)) + 31 * k)
                    .truncatingRemainder(dividingBy: 256)
                let b = 127 + 127 * sin(x / (7 + k) + y / (11 + k))
                let (dx, dy) = (x - Double(width) * 0.5, y - Double(height) * 0.4)
                let inside = dx * dx + dy * dy < radius * radius
                for value in inside ? [255 - r, b, b] : [r, g, b] {
                    pixels.append(UInt8(min(max(value.rounded(.toNearestOrEven), 0), 255)))
                }
            }
        }
        return try RGBImage(width: width, height: height, pixels: pixels)
    }

    /// SHA-256 of the strip (3, 14, 14 · patches) of float32, out of the patches (588, patches).
    private func stripDigest(_ view: View) -> String {
        let count = view.tgtSize.count
        let patches = ImagePreprocessor(.published).patches(of: view, length: count)
        var strip: [Float] = []
        strip.reserveCapacity(patches.count)
        for line in 0..<3 * 14 {
            for patch in 0..<count {
                for x in 0..<14 { strip.append(patches[(line * 14 + x) * count + patch]) }
            }
        }
        return strip.withUnsafeBytes { FileDigest.hexadecimal(of: Data($0)) }
    }

    func testViewsEqualThePublishedProcessorBitForBit() throws {
        let data = try Data(contentsOf: Repository.url("tests/golden/preprocess.json"))
        let entries = try JSONDecoder().decode([Entry].self, from: data)
        // Larger ones take minutes without optimization; the comparison with Pillow has them.
        let small = entries.filter { $0.size[0] * $0.size[1] <= 60_000 }
        XCTAssertGreaterThan(small.count, 3)
        for entry in small {
            let image = try picture(entry.size[0], entry.size[1], entry.k)
            let plan = try SlicePlan(
                size: PixelSize(width: image.width, height: image.height),
                preprocessing: .published)
            let views = try ImagePreprocessor(.published).views(of: image)
            XCTAssertEqual(plan.grid.map { [$0.columns, $0.rows] }, entry.grid)
            XCTAssertEqual(
                views.map { [$0.tgtSize.rows, $0.tgtSize.columns] }, entry.tgt_sizes)
            XCTAssertEqual(views.map(stripDigest), entry.sha256, "\(entry.size)")
        }
    }
}

final class PictureTests: XCTestCase {
    func testAPictureOfOneColourKeepsIt() throws {
        for level in [0, 1, 127, 254, 255] as [UInt8] {
            let image = try RGBImage(
                width: 37, height: 23, pixels: [UInt8](repeating: level, count: 37 * 23 * 3))
            let resized = try BicubicResize.resize(image, width: 90, height: 7)
            XCTAssertEqual(Set(resized.pixels), [level])
        }
    }

    func testTheSameSizeIsTheSamePicture() throws {
        let pixels = (0..<5 * 4 * 3).map { UInt8($0) }
        let image = try RGBImage(width: 5, height: 4, pixels: pixels)
        XCTAssertEqual(try BicubicResize.resize(image, width: 5, height: 4), image)
    }

    func testImpossiblePicturesAreRefused() throws {
        XCTAssertThrowsError(try RGBImage(width: 0, height: 5, pixels: []))
        XCTAssertThrowsError(try RGBImage(width: 2, height: 2, pixels: [1]))
        XCTAssertThrowsError(try RGBImage(width: .max, height: .max, pixels: []))
        let image = try RGBImage(width: 1, height: 1, pixels: [1, 2, 3])
        XCTAssertThrowsError(try BicubicResize.resize(image, width: 0, height: 1))
    }

    func testTiesOfGridsGoToTheFirstCandidate() throws {
        let square = PixelSize(width: 896, height: 896)
        XCTAssertEqual(
            try SlicePlan(size: square, preprocessing: .published).grid,
            Grid(columns: 2, rows: 2))
        XCTAssertEqual(
            try SlicePlan(size: square, preprocessing: .published, maxSliceNums: 2).grid,
            Grid(columns: 1, rows: 2))
    }

    func testImpossibleSizesAreRefused() {
        for (width, height, limit) in [(0, 5, 9), (5, 0, 9), (5, 5, 0)] {
            XCTAssertThrowsError(
                try SlicePlan(
                    size: PixelSize(width: width, height: height), preprocessing: .published,
                    maxSliceNums: limit))
        }
    }

    func testAViewLongerThanTheGraphNamesSizeAndLimit() throws {
        let strip = try RGBImage(
            width: 14, height: 2000, pixels: [UInt8](repeating: 9, count: 14 * 2000 * 3))
        let processor = ImagePreprocessor(.published)
        let views = try processor.views(of: strip)
        XCTAssertThrowsError(try processor.check(views[0])) { error in
            let sentence = (error as? MiniCPMVError)?.sentence ?? ""
            XCTAssertTrue(
                sentence.contains("42×5348 pixels, 1146 patches") && sentence.contains("1088"),
                sentence)
        }
    }
}
