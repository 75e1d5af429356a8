import Foundation
import MiniCPMV

/// Prints how pictures of given sizes are scaled and sliced, a line of JSON each.
enum SliceCommand {
    static let command = Subcommand(
        usage: "slice WIDTHxHEIGHT|FILE [--max-slice-nums N]   FILE has a size a line", run: run)

    private static func run(_ arguments: [String]) throws {
        let given = try Arguments(
            arguments, values: ["SIZES"], options: ["max-slice-nums"],
            usage: command.usage)
        let limit = try given.integer("max-slice-nums")
        let sizes = try size(given.values[0]).map { [$0] } ?? sizes(inFile: given.values[0])
        let lines = try sizes.map { size in
            let plan = try SlicePlan(
                size: size, preprocessing: .published, maxSliceNums: limit)
            return try Output.json(Line(plan))
        }
        Output.write(lines.joined(separator: "\n") + "\n")
    }

    private struct Line: Encodable {
        let overviewSize: [Int]
        let grid: [Int]?
        let refineSize: [Int]?

        init(_ plan: SlicePlan) {
            overviewSize = [plan.overviewSize.width, plan.overviewSize.height]
            grid = plan.grid.map { [$0.columns, $0.rows] }
            refineSize = plan.refineSize.map { [$0.width, $0.height] }
        }
    }

    private static func size(_ text: String) -> PixelSize? {
        let sides = text.split(separator: "x", omittingEmptySubsequences: false).map { Int($0) }
        guard sides.count == 2, let width = sides[0], let height = sides[1] else { return nil }
        return PixelSize(width: width, height: height)
    }

    private static func sizes(inFile path: String) throws -> [PixelSize] {
        let text = String(decoding: try Input.data(path), as: UTF8.self)
        return try text.split(separator: "\n").map { line in
            guard let size = size(String(line)) else {
                throw MiniCPMVError.invalidOption(
                    "'\(line)' is no size; write WIDTHxHEIGHT, such as 4032x3024.")
            }
            return size
        }
    }
}

extension Preprocessing {
    /// The published image processor's constants.
    static let published = Preprocessing(
        scaleResolution: 448, patchSize: 14, maxSliceNums: 9, sliceMode: true, useImageId: true,
        normMean: [0.5, 0.5, 0.5], normStd: [0.5, 0.5, 0.5], numQueries: 64,
        positionBuckets: 70, maxPatches: 1088)
}
