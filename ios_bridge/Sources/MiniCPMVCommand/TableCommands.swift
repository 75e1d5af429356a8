import Foundation
import MiniCPMV

/// Computes position tables and masks, for comparisons with the Python runtime.
enum TablesCommand {
    static let command = Subcommand(
        usage: "tables REQUESTS OUTPUT   JSON list of table, numbers, theta; raw 32-bit arrays",
        run: run)

    private static func run(_ arguments: [String]) throws {
        let given = try Arguments(
            arguments, values: ["REQUESTS", "OUTPUT"], usage: command.usage)
        var bytes = Data()
        for request in try Input.json(given.values[0], as: [Request].self) {
            bytes.append(try request.bytes())
        }
        try Output.write(bytes, to: given.values[1])
    }

    private struct Request: Decodable {
        let table: String
        let numbers: [Int]
        let positions: [Int]?
        let theta: Double?

        func bytes() throws -> Data {
            let list = positions ?? []
            switch (table, numbers.count) {
            case ("bucket_positions", 2):
                return integers(BucketPositions.buckets(count: numbers[0], buckets: numbers[1]))
            case ("position_ids", 3):
                let grid = Grid(columns: numbers[1], rows: numbers[0])
                return integers(BucketPositions.positionIds(grid, buckets: numbers[2]))
            case ("sincos_1d", 1):
                return floats(SinCosTables.positions(list, dim: numbers[0]))
            case ("sincos_2d", 3):
                let grid = Grid(columns: numbers[1], rows: numbers[0])
                return floats(SinCosTables.grid(grid, dim: numbers[2]))
            case ("sincos_time", 1):
                return floats(SinCosTables.times(list, dim: numbers[0]))
            case ("rope", 3):
                let tables = RotaryTables(headDim: numbers[2], theta: theta ?? 1e6)
                let pair = tables.tables(numbers[0]..<numbers[1])
                return floats(pair.cos + pair.sin)
            case ("mask_state", 3):
                return floats(
                    AttentionMask.state(
                        position: numbers[0], length: numbers[1], context: numbers[2]))
            case ("mask_io", 3):
                return floats(
                    AttentionMask.io(
                        position: numbers[0], length: numbers[1], context: numbers[2]))
            default:
                throw MiniCPMVError.invalidOption(
                    "There is no table '\(table)' of that many numbers.")
            }
        }

        private func integers(_ values: [Int]) -> Data {
            values.map(Int32.init).withUnsafeBytes { Data($0) }
        }

        private func floats(_ values: [Float]) -> Data {
            values.withUnsafeBytes { Data($0) }
        }
    }
}

/// Plans which frames of videos to show.
enum FramesCommand {
    static let command = Subcommand(
        usage: "frames VIDEOS   JSON list of frame_count, fps and the sampler's settings", run: run)

    private static func run(_ arguments: [String]) throws {
        let given = try Arguments(arguments, values: ["VIDEOS"], usage: command.usage)
        let lines = try Input.json(given.values[0], as: [Video].self).map { video in
            try Output.json(video.result())
        }
        Output.write(lines.joined(separator: "\n") + "\n")
    }

    private struct Video: Decodable {
        let frameCount: Int
        let fps: Double
        let chooseFps: Int
        let maxNumFrames: Int
        let maxNumPacking: Int
        let forcePacking: Int?

        func result() throws -> Result {
            let options = VideoOptions(
                chooseFps: chooseFps, maxNumFrames: maxNumFrames, maxNumPacking: maxNumPacking,
                forcePacking: forcePacking)
            do {
                let plan = try FramePlan(
                    VideoInfo(frameCount: frameCount, fps: fps), options: options)
                return Result(indices: plan.indices, temporalIds: plan.temporalIds, error: nil)
            } catch let error as MiniCPMVError {
                return Result(indices: nil, temporalIds: nil, error: error.sentence)
            }
        }
    }

    private struct Result: Encodable {
        let indices: [Int]?
        let temporalIds: [[Int]]?
        let error: String?
    }
}

/// Draws tokens from recorded logits.
enum SampleCommand {
    static let command = Subcommand(
        usage: "sample CASES   JSON list of logits (raw float32 rows), vocab_size, settings, seed",
        run: run)

    private static func run(_ arguments: [String]) throws {
        let given = try Arguments(arguments, values: ["CASES"], usage: command.usage)
        let lines = try Input.json(given.values[0], as: [Case].self).map { item in
            try Output.json(item.tokens())
        }
        Output.write(lines.joined(separator: "\n") + "\n")
    }

    private struct Case: Decodable {
        let logits: String
        let vocabSize: Int
        let temperature: Double
        let topK: Int
        let topP: Double
        let repetitionPenalty: Double
        let seed: UInt64

        func tokens() throws -> [Int] {
            let values = try Input.floats(logits)
            var sampler = try Sampler(
                temperature: temperature, topK: topK, topP: topP,
                repetitionPenalty: repetitionPenalty, seed: seed)
            var tokens: [Int] = []
            for start in stride(from: 0, to: values.count, by: vocabSize) {
                let row = Array(values[start..<min(start + vocabSize, values.count)])
                tokens.append(try sampler.nextToken(row, generated: tokens))
            }
            return tokens
        }
    }
}
