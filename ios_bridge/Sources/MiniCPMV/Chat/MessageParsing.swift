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

    /// What the parts of each type may hold.
    private static let keys: [String: [String]] = [
        "text": ["text"],
        "image": ["image", "path", "url"],
        "video": ["video", "path", "url"],
    ]
    /// Which frames of a film are read.
    private static let sampling = ["fps", "max_frames", "packing"]

    private static func part(_ value: JSONValue) throws -> Part {
        let kind = value.object?["type"]?.string ?? ""
        guard let fields = value.object, let allowed = keys[kind] else {
            throw MiniCPMVError.invalidMessage(
                #"A content part must be {"type": "text", "text": …}, "#
                    + #"{"type": "image", "image": …} or {"type": "video", "video": …}, "#
                    + "not one of type '\(kind.isEmpty ? value.kind : kind)'.")
        }
        let given = try content(of: fields, kind, allowed)
        if let media = MediaKind(rawValue: kind) {
            try checkSampling(fields)
            return .media(media)
        }
        guard let text = given.string else {
            throw MiniCPMVError.invalidMessage("A text part must hold text, not \(given.kind).")
        }
        return .text(text)
    }

    /// The value of the one key of `allowed` that a part has besides its type.
    private static func content(
        of fields: [String: JSONValue], _ kind: String, _ allowed: [String]
    ) throws -> JSONValue {
        var names = Set(fields.keys).subtracting(["type"])
        if kind == "video" { names.subtract(sampling) }
        let choice = allowed.joined(separator: ", ")
        let unknown = names.subtracting(allowed)
        guard unknown.isEmpty else {
            let besides = kind == "video" ? ", and \(sampling.joined(separator: ", "))" : ""
            throw MiniCPMVError.invalidMessage(
                "A part of type '\(kind)' has \(unknown.sorted().joined(separator: ", ")); there "
                    + "may be one of \(choice)\(besides).")
        }
        guard names.count == 1, let name = names.first, let given = fields[name] else {
            let found = names.isEmpty ? "nothing else" : names.sorted().joined(separator: ", ")
            throw MiniCPMVError.invalidMessage(
                "A part of type '\(kind)' has \(found); give one of \(choice).")
        }
        return given
    }

    private static func checkSampling(_ fields: [String: JSONValue]) throws {
        for key in sampling {
            guard let value = fields[key] else { continue }
            guard case .integer(let number) = value, number >= 1 else {
                throw MiniCPMVError.invalidMessage(
                    "\(key) of a video is \(value.text.prefix(40)); give a whole number from 1 on.")
            }
        }
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
