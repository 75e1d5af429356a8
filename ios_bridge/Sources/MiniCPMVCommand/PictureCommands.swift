import Foundation
import MiniCPMV

/// Resizes raw pictures, for comparisons with Pillow.
enum ResizeCommand {
    static let command = Subcommand(
        usage: "resize CASES   JSON list of input, size, output, resized (raw RGB files)", run: run)

    private static func run(_ arguments: [String]) throws {
        let given = try Arguments(arguments, values: ["CASES"], usage: command.usage)
        for item in try Input.json(given.values[0], as: [Case].self) {
            guard item.size.count == 2, item.resized.count == 2 else {
                throw MiniCPMVError.invalidOption("A size has two sides: [width, height].")
            }
            let image = try Input.picture(
                item.input, width: item.size[0], height: item.size[1])
            let resized = try BicubicResize.resize(
                image, width: item.resized[0], height: item.resized[1])
            try Output.write(resized.pixels, to: item.output)
        }
    }

    private struct Case: Decodable {
        let input: String
        let size: [Int]
        let output: String
        let resized: [Int]
    }
}

/// Cuts raw pictures into the views of the vision graph, and measures the time.
enum ViewsCommand {
    static let command = Subcommand(
        usage: "views PICTURE WIDTH HEIGHT OUTPUT [--max-slice-nums N] [--repeat N]   raw files",
        run: run)

    private static func run(_ arguments: [String]) throws {
        let given = try Arguments(
            arguments, values: ["PICTURE", "WIDTH", "HEIGHT", "OUTPUT"],
            options: ["max-slice-nums", "repeat"],
            usage: command.usage)
        let image = try Input.picture(
            given.values[0], width: Int(given.values[1]) ?? 0, height: Int(given.values[2]) ?? 0)
        let processor = ImagePreprocessor(.published)
        let limit = try given.integer("max-slice-nums")
        var views: [View] = []
        var seconds: [Double] = []
        var cpuSeconds: [Double] = []
        for _ in 0..<(try given.integer("repeat") ?? 1) {
            let cpu = processSeconds()
            let taken = try ContinuousClock().measure {
                views = try processor.views(of: image, maxSliceNums: limit)
            }
            seconds.append(taken / .seconds(1))
            cpuSeconds.append(processSeconds() - cpu)
        }
        var cut: [Float] = []
        for view in views { cut += processor.patches(of: view, length: view.tgtSize.count) }
        try Output.write(cut.withUnsafeBytes { Data($0) }, to: given.values[3])
        let sizes = views.map { [$0.tgtSize.rows, $0.tgtSize.columns] }
        let result = Result(tgtSizes: sizes, seconds: seconds, cpuSeconds: cpuSeconds)
        Output.write(try Output.json(result) + "\n")
    }

    /// Processor time that this process has had.
    private static func processSeconds() -> Double {
        var time = timespec()
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time)
        return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
    }

    private struct Result: Encodable {
        let tgtSizes: [[Int]]
        // Of scaling and slicing, each time.
        let seconds: [Double]
        let cpuSeconds: [Double]
    }
}
