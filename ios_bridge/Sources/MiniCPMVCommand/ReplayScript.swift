import Foundation
import MiniCPMV

/// A recorded conversation: its turns, and what was answered. Files are named relative to the
/// script's folder.
struct ReplayScript: Decodable {
    let calls: String
    let values: String
    /// Largest difference of an input of a package from the recorded one.
    let tolerance: Float
    let turns: [Turn]
    let expected: [ReplayOutcome]

    /// `messages` that are answered, or a `question` with `images` that goes on with the
    /// conversation; and options. A picture is a raw `file` and its `size`.
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
        /// Tokens after which the answer is cancelled.
        let cancelAfter: Int?

        func stream(_ session: ChatSession, _ folder: URL) throws -> Answer {
            let options = ChatOptions(
                prompt: PromptOptions(enableThinking: enableThinking ?? false),
                sampling: SamplingOptions(
                    temperature: temperature, repetitionPenalty: repetitionPenalty, seed: seed,
                    maxNewTokens: maxNewTokens),
                maxSliceNums: maxSliceNums)
            if let messages {
                return session.stream(
                    messages: try messages.map { try $0.read(folder) }, options: options)
            }
            return session.stream(
                question ?? "", images: try (images ?? []).map { try $0.read(folder) },
                options: options)
        }
    }

    struct Message: Decodable {
        let role: String
        let parts: [Part]

        func read(_ folder: URL) throws -> ChatMessage {
            ChatMessage(ChatRole(rawValue: role) ?? .user, try parts.map { try $0.read(folder) })
        }
    }

    struct Part: Decodable {
        let text: String?
        let image: Picture?
        let frames: [Picture]?
        let temporalIds: [[Int]]?

        func read(_ folder: URL) throws -> ChatMessage.Part {
            if let image { return .image(try image.read(folder)) }
            if let frames {
                let read = try frames.map { try $0.read(folder) }
                return .video(try VideoFrames(read, temporalIds: temporalIds))
            }
            return .text(text ?? "")
        }
    }

    struct Picture: Decodable {
        let file: String
        let size: [Int]

        func read(_ folder: URL) throws -> RGBImage {
            try Input.picture(
                folder.appendingPathComponent(file).path, width: size.first ?? 0,
                height: size.last ?? 0)
        }
    }
}

/// What one turn gave.
struct ReplayOutcome: Codable, Equatable, Sendable {
    let text: String?
    let error: String?
    let tokenIds: [Int]
    let finishReason: String?
    let promptTokens: Int
    let reusedTokens: Int
    let newTokens: Int

    /// Wait for the answer.
    init(of answer: Answer) async {
        do {
            text = try await answer.text()
            error = nil
        } catch {
            text = nil
            self.error = error.localizedDescription
        }
        let statistics = answer.statistics
        tokenIds = answer.tokenIds
        finishReason = answer.finishReason?.rawValue
        promptTokens = statistics.promptTokens
        reusedTokens = statistics.reusedTokens
        newTokens = statistics.newTokens
    }
}
