extension ChatTurn {
    /// The turns of a conversation in the transformers convention: a list of objects with `role`,
    /// `content` (a text, or a list of parts) and perhaps `reasoning_content`.
    ///
    /// - Throws: `MiniCPMVError.invalidMessage`, which names the first thing that is not valid.
    public static func list(parsing messages: JSONValue) throws -> [ChatTurn] {
        let turns = try (messages.array ?? []).map(ChatTurn.init(parsing:))
        try check(turns)
        return turns
    }

    private init(parsing message: JSONValue) throws {
        guard let fields = message.object, let content = fields["content"],
            let role = fields["role"]
        else {
            throw MiniCPMVError.invalidMessage(
                "A message needs a role and a content, not '\(message.text.prefix(80))'.")
        }
        let unknown = Set(fields.keys).subtracting(["role", "content", "reasoning_content"])
        guard unknown.isEmpty else {
            throw MiniCPMVError.invalidMessage(
                "A message has \(unknown.sorted().joined(separator: ", ")); only role, content "
                    + "and reasoning_content are supported, tools are not.")
        }
        guard let known = role.string.flatMap(ChatRole.init(rawValue:)) else {
            let roles = ChatRole.allCases.map(\.rawValue).joined(separator: ", ")
            throw MiniCPMVError.invalidMessage(
                "A message has the role '\(role.string ?? role.text)'; the roles are \(roles).")
        }
        let reasoning = fields["reasoning_content"] ?? .null
        guard reasoning == .null || reasoning.string != nil else {
            throw MiniCPMVError.invalidMessage(
                "reasoning_content must be text, not \(reasoning.kind).")
        }
        self.init(known, try Self.parts(content), reasoning: reasoning.string)
    }

    private static func parts(_ content: JSONValue) throws -> [Part] {
        if let text = content.string { return [.text(text)] }
        guard let parts = content.array else {
            throw MiniCPMVError.invalidMessage(
                "A message's content must be text or a list of parts, not \(content.kind).")
        }
        return try parts.map(part)
    }

    private static func part(_ value: JSONValue) throws -> Part {
        let kind = value.object?["type"]?.string ?? ""
        guard let given = value.object?[kind], kind == "text" || MediaKind(rawValue: kind) != nil
        else {
            throw MiniCPMVError.invalidMessage(
                #"A content part must be {"type": "text", "text": …}, "#
                    + #"{"type": "image", "image": …} or {"type": "video", "video": …}, "#
                    + "not one of type '\(kind.isEmpty ? value.kind : kind)'.")
        }
        if let media = MediaKind(rawValue: kind) { return .media(media) }
        guard let text = given.string else {
            throw MiniCPMVError.invalidMessage("A text part must hold text, not \(given.kind).")
        }
        return .text(text)
    }
}

extension JSONValue {
    /// What kind of value this is, for sentences; the names of Python's types.
    var kind: String {
        switch self {
        case .null: "NoneType"
        case .bool: "bool"
        case .integer: "int"
        case .number: "float"
        case .string: "str"
        case .array: "list"
        case .object: "dict"
        }
    }
}
