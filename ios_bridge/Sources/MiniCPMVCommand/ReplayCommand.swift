import Foundation
import MiniCPMV

/// Runs a conversation against recorded packages: the whole session but the packages themselves.
///
/// SCRIPT is JSON: `calls` and `values`, the recording's files; `tolerance` of inputs; `turns`, a
/// list of `messages` (parts are a `text`, an `image`, or `frames` with `temporal_ids`; a picture
/// is a raw `file` and its `size`) with options, or of a `question` with `images` that continues
/// the conversation. Prints a line of JSON for each turn, and one for the recording.
enum ReplayCommand {
    static let command = Subcommand(usage: "replay BUNDLE SCRIPT", run: run)

    private static func run(_ arguments: [String]) throws {
        let given = try Arguments(arguments, values: ["BUNDLE", "SCRIPT"], usage: command.usage)
        let bundle = try ModelBundle(folder: URL(fileURLWithPath: given.values[0]))
        let script = try Input.json(given.values[1], as: ReplayScript.self)
        let engines = try RecordedEngines(
            calls: URL(fileURLWithPath: script.calls), values: URL(fileURLWithPath: script.values),
            tolerance: script.tolerance)
        let session = try ChatModel(bundle: bundle, engines: engines).chat()
        for turn in script.turns {
            let answer = try turn.stream(session)
            Output.write(try Output.json(outcome(of: answer)) + "\n")
        }
        let end = End(differences: engines.differences, remainingCalls: engines.remainingCalls)
        Output.write(try Output.json(end) + "\n")
    }

    /// Wait for the answer; the session writes it on threads of its own.
    private static func outcome(of answer: Answer) -> Outcome {
        let done = DispatchSemaphore(value: 0)
        let box = Box()
        Task {
            do {
                box.text = try await answer.text()
            } catch {
                box.error = error.localizedDescription
            }
            done.signal()
        }
        done.wait()
        let statistics = answer.statistics
        return Outcome(
            text: box.text, error: box.error, tokenIds: answer.tokenIds,
            finishReason: answer.finishReason?.rawValue, promptTokens: statistics.promptTokens,
            reusedTokens: statistics.reusedTokens, newTokens: statistics.newTokens)
    }

    /// Written before the semaphore is signalled, read after.
    private final class Box: @unchecked Sendable {
        var text: String?
        var error: String?
    }

    private struct Outcome: Encodable {
        let text: String?
        let error: String?
        let tokenIds: [Int]
        let finishReason: String?
        let promptTokens: Int
        let reusedTokens: Int
        let newTokens: Int
    }

    private struct End: Encodable {
        let differences: [String: Float]
        let remainingCalls: Int
    }
}

/// What `ReplayCommand` reads.
private struct ReplayScript: Decodable {
    let calls: String
    let values: String
    let tolerance: Float
    let turns: [Turn]

    struct Turn: Decodable {
        let messages: [Message]?
        let question: String?
        let images: [Picture]?
        let enableThinking: Bool?
        let maxNewTokens: Int?
        let temperature: Double?
        let repetitionPenalty: Double?
        let seed: UInt64?
        let maxSliceNums: Int?

        func stream(_ session: ChatSession) throws -> Answer {
            let options = ChatOptions(
                prompt: PromptOptions(enableThinking: enableThinking ?? false),
                sampling: SamplingOptions(
                    temperature: temperature, repetitionPenalty: repetitionPenalty, seed: seed,
                    maxNewTokens: maxNewTokens),
                maxSliceNums: maxSliceNums)
            if let messages {
                return session.stream(
                    messages: try messages.map { try $0.read() }, options: options)
            }
            return session.stream(
                question ?? "", images: try (images ?? []).map { try $0.read() },
                options: options)
        }
    }

    struct Message: Decodable {
        let role: String
        let parts: [Part]

        func read() throws -> ChatMessage {
            ChatMessage(ChatRole(rawValue: role) ?? .user, try parts.map { try $0.read() })
        }
    }

    struct Part: Decodable {
        let text: String?
        let image: Picture?
        let frames: [Picture]?
        let temporalIds: [[Int]]?

        func read() throws -> ChatMessage.Part {
            if let image { return .image(try image.read()) }
            if let frames {
                let read = try frames.map { try $0.read() }
                return .video(try VideoFrames(read, temporalIds: temporalIds))
            }
            return .text(text ?? "")
        }
    }

    struct Picture: Decodable {
        let file: String
        let size: [Int]

        func read() throws -> RGBImage {
            try Input.picture(file, width: size.first ?? 0, height: size.last ?? 0)
        }
    }
}
