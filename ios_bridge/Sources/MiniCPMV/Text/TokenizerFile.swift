import Foundation

/// The parts of a `tokenizer.json` that byte-level byte-pair encoding needs, checked.
struct TokenizerFile {
    /// A token that text never becomes.
    struct AddedToken {
        let id: Int
        let content: String
        let special: Bool
    }

    /// Larger ids are taken for damage.
    private static let maxId = 1 << 24

    let vocabulary: Vocabulary
    let merges: MergeTable
    let added: [AddedToken]
    let composesText: Bool

    init(_ url: URL) throws {
        let value = try Self.read(url)
        func refused(_ reason: String) -> MiniCPMVError {
            .invalidTokenizer(
                "\(url.path) is not a tokenizer that this program reads (\(reason)); "
                    + "export the bundle again.")
        }
        let fields = value.object ?? [:]
        guard fields["decoder"]?.object?["type"] == .string("ByteLevel") else {
            throw MiniCPMVError.invalidTokenizer(
                "\(url.path) is not a byte-level tokenizer.json; export the bundle again.")
        }
        do {
            composesText = try Self.composesText(fields["normalizer"] ?? .null)
            try Self.checkSplit(fields["pre_tokenizer"] ?? .null)
            added = try Self.added(fields["added_tokens"] ?? .array([]))
            let model = fields["model"]?.object ?? [:]
            try Self.checkModel(model)
            vocabulary = try Self.vocabulary(model["vocab"]?.object)
            merges = try Self.merges(model["merges"]?.array, vocabulary)
        } catch let unsupported as Unsupported {
            throw refused(unsupported.reason)
        }
    }

    private struct Unsupported: Error {
        let reason: String
    }

    private static func read(_ url: URL) throws -> JSONValue {
        guard BundleFile.size(at: url) != nil else {
            throw MiniCPMVError.invalidTokenizer(
                "\(url.path) does not exist; copy or export the bundle again.")
        }
        let data = try Data(contentsOf: url)
        do {
            return try JSONValue(parsing: data)
        } catch {
            throw MiniCPMVError.invalidTokenizer(
                "\(url.path) is not valid JSON (\(error.reason) at byte \(error.offset)); "
                    + "export the bundle again.")
        }
    }

    private static func composesText(_ normalizer: JSONValue) throws -> Bool {
        if normalizer == .null { return false }
        guard normalizer.object?["type"] == .string("NFC") else {
            throw Unsupported(reason: "its normalizer is neither absent nor NFC")
        }
        return true
    }

    private static func checkSplit(_ value: JSONValue) throws {
        let steps = value.object?["pretokenizers"]?.array ?? []
        let split = steps.first?.object ?? [:]
        let bytes = steps.last?.object ?? [:]
        let isKnown =
            value.object?["type"] == .string("Sequence") && steps.count == 2
            && split["type"] == .string("Split")
            && split["pattern"]?.object?["Regex"] == .string(WordSplitter.pattern)
            && split["behavior"] == .string("Isolated") && split["invert"] != .bool(true)
            && bytes["type"] == .string("ByteLevel")
            && bytes["add_prefix_space"] == .bool(false) && bytes["use_regex"] == .bool(false)
        guard isKnown else {
            throw Unsupported(reason: "its pre_tokenizer does not cut text as Qwen2's does")
        }
    }

    private static func checkModel(_ model: [String: JSONValue]) throws {
        func isAbsent(_ name: String) -> Bool {
            [nil, .null, .bool(false), .string("")].contains(model[name])
        }
        let unsupported = [
            "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix",
            "byte_fallback", "ignore_merges",
        ].filter { !isAbsent($0) }
        guard model["type"] == .string("BPE"), unsupported.isEmpty else {
            let names = unsupported.joined(separator: ", ")
            throw Unsupported(reason: "its model is not plain BPE: \(names)")
        }
    }

    private static func added(_ value: JSONValue) throws -> [AddedToken] {
        try (value.array ?? []).map { entry in
            guard let fields = entry.object, let id = fields["id"]?.integer,
                let content = fields["content"]?.string, let special = fields["special"]?.bool,
                (0..<maxId).contains(id)
            else { throw Unsupported(reason: "an added token lacks its id, content or kind") }
            return AddedToken(id: id, content: content, special: special)
        }
    }

    private static func vocabulary(_ entries: [String: JSONValue]?) throws -> Vocabulary {
        guard let entries else { throw Unsupported(reason: "its model has no vocab") }
        let largest = entries.values.compactMap(\.integer).max() ?? 0
        guard largest < maxId else { throw Unsupported(reason: "a token has the id \(largest)") }
        var vocabulary = Vocabulary(capacity: entries.count, idCount: largest + 1)
        for (token, value) in entries {
            guard let id = value.integer, id >= 0, let bytes = ByteAlphabet.bytes(of: token) else {
                throw Unsupported(reason: "'\(token)' is no byte-level token with an id")
            }
            vocabulary.insert(bytes, id: id)
        }
        return vocabulary
    }

    private static func merges(
        _ entries: [JSONValue]?, _ vocabulary: Vocabulary
    ) throws -> MergeTable {
        guard let entries else { throw Unsupported(reason: "its model has no merges") }
        var merges = MergeTable(capacity: entries.count)
        for (rank, entry) in entries.enumerated() {
            // Written as "a b" or as ["a", "b"].
            let parts =
                entry.array?.compactMap(\.string)
                ?? entry.string?.split(separator: " ").map(String.init) ?? []
            let bytes = parts.compactMap(ByteAlphabet.bytes)
            guard bytes.count == 2, let left = vocabulary.id(of: bytes[0]),
                let right = vocabulary.id(of: bytes[1]),
                let id = vocabulary.id(of: bytes[0] + bytes[1])
            else { throw Unsupported(reason: "merge number \(rank) is not of the vocabulary") }
            merges.insert(left: left, right: right, rank: rank, id: id)
        }
        return merges
    }
}
