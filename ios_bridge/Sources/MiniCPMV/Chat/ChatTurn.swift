/// Who says a message.
public enum ChatRole: String, CaseIterable, Sendable {
    case system
    case user
    case assistant
}

/// What a message shows.
public enum MediaKind: String, Sendable {
    case image
    case video
}

/// One message of a conversation: text and media in order, and the thoughts that came apart from
/// the text. The pictures themselves stay with the caller, in the order in which they occur.
public struct ChatTurn: Equatable, Sendable {
    /// A piece of a message.
    public enum Part: Equatable, Sendable {
        case text(String)
        case media(MediaKind)
    }

    /// Who says it.
    public let role: ChatRole
    /// Text and media in order.
    public let parts: [Part]
    /// Thoughts that came apart from the text.
    public let reasoning: String?

    /// A message of text and media.
    public init(_ role: ChatRole, _ parts: [Part], reasoning: String? = nil) {
        self.role = role
        self.parts = parts
        self.reasoning = reasoning
    }

    /// A message of text alone.
    public init(_ role: ChatRole, _ text: String, reasoning: String? = nil) {
        self.init(role, [.text(text)], reasoning: reasoning)
    }

    /// Kinds of the pictures and videos, in order.
    public var media: [MediaKind] {
        parts.compactMap { if case .media(let kind) = $0 { kind } else { nil } }
    }

    /// The content with its parts joined as published; a picture counts as no text.
    var text: String {
        parts.map { if case .text(let text) = $0 { text } else { "" } }.joined(separator: "\n")
    }

    /// Refuse a conversation without messages, and pictures of others than the user.
    ///
    /// - Throws: `MiniCPMVError.invalidMessage`.
    static func check(_ turns: [ChatTurn]) throws {
        guard !turns.isEmpty else {
            throw MiniCPMVError.invalidMessage(
                #"Messages must be a list such as [{"role": "user", "content": "Hi"}]."#)
        }
        for turn in turns where turn.role != .user && !turn.media.isEmpty {
            throw MiniCPMVError.invalidMessage(
                "A message of the role \(turn.role.rawValue) holds a picture; "
                    + "only the user's may.")
        }
    }
}
