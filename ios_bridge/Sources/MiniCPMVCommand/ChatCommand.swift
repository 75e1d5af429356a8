import Foundation
import MiniCPMV

#if canImport(AVFoundation)
    import AVFoundation
#endif

/// Answers one question with Core ML; the answer goes to standard output, the rest elsewhere.
enum ChatCommand {
    static let command = Subcommand(
        usage: "chat BUNDLE QUESTION [--image FILE] [--video FILE] [--thinking] [--cache FOLDER]",
        run: run)

    private static func run(_ given: [String]) throws {
        let arguments = try Arguments(
            given, values: ["BUNDLE", "QUESTION"], flags: ["thinking"],
            options: ["image", "video", "cache"], usage: command.usage)
        let configuration = Configuration(
            cacheFolder: arguments.text("cache").map { URL(fileURLWithPath: $0) },
            progress: { note("\($0)") })
        let folder = URL(fileURLWithPath: arguments.values[0])
        let image = try arguments.text("image").map { try picture(URL(fileURLWithPath: $0)) }
        let options = ChatOptions(enableThinking: arguments.has("thinking"))
        try Waiting.result {
            let video = try await arguments.text("video").asyncMap(frames)
            let model = try await MiniCPMV.load(bundle: folder, configuration: configuration)
            let answer = try model.chat().stream(
                arguments.values[1], images: image.map { [$0] } ?? [], video: video,
                options: options)
            for try await piece in answer { Output.write(piece) }
            Output.write("\n")
            let found = answer.statistics
            note(
                "\(found.newTokens) tokens, \(found.tokensPerSecond) a second, the first after "
                    + "\(found.secondsToFirstToken) s, \(found.peakMemoryBytes) bytes")
            for placement in model.placements {
                note("\(placement.package): \(placement.unit.rawValue)")
            }
        }
    }

    private static func note(_ text: String) {
        FileHandle.standardError.write(Data("\(text)\n".utf8))
    }

    private static func picture(_ file: URL) throws -> RGBImage {
        #if canImport(CoreGraphics) && canImport(ImageIO)
            return try RGBImage(contentsOf: file)
        #else
            throw MiniCPMVError.invalidOption("--image needs a Mac: nothing reads pictures here.")
        #endif
    }

    @Sendable private static func frames(_ path: String) async throws -> VideoFrames {
        #if canImport(AVFoundation)
            return try await VideoFrames(AVURLAsset(url: URL(fileURLWithPath: path)))
        #else
            throw MiniCPMVError.invalidOption("--video needs a Mac: nothing reads videos here.")
        #endif
    }
}

extension Optional {
    /// What `transform` makes of the value, if there is one.
    fileprivate func asyncMap<Result>(
        _ transform: (Wrapped) async throws -> Result
    ) async rethrows -> Result? {
        guard let self else { return nil }
        return try await transform(self)
    }
}
