import Foundation

/// The byte-level BPE tokenizer of a bundle: text to ids, ids to text.
///
/// Text is data: whatever it spells, it never becomes a special token. Special tokens are written
/// by id, which `tokenId(_:)` looks up.
public struct Tokenizer: Sendable {
    private let vocabulary: Vocabulary
    private let encoder: BytePairEncoder
    private let composesText: Bool
    private let added: [Int: String]
    private let special: Set<Int>

    /// Number of tokens, added ones included.
    public let vocabSize: Int

    /// Read a `tokenizer.json`.
    ///
    /// - Throws: `MiniCPMVError.invalidTokenizer` when it is missing, or is not the byte-level BPE
    ///   with Qwen2's words that this package knows.
    public init(contentsOf url: URL) throws {
        let file = try TokenizerFile(url)
        vocabulary = file.vocabulary
        composesText = file.composesText
        added = Dictionary(file.added.map { ($0.id, $0.content) }) { _, last in last }
        special = Set(file.added.filter(\.special).map(\.id))
        let byteIds = (0...255).map { file.vocabulary.id(of: [UInt8($0)]).map(Int32.init) ?? -1 }
        encoder = BytePairEncoder(merges: file.merges, byteIds: byteIds)
        let outside = added.values.filter { content in
            ByteAlphabet.bytes(of: content).flatMap(file.vocabulary.id) == nil
        }
        vocabSize = vocabulary.count + outside.count
    }

    /// Token ids of `text`, read as plain text: special tokens that it spells stay letters.
    public func encode(_ text: String) -> [Int] {
        var text = composesText ? Normalization.shared.composed(text) : text
        var encoder = encoder
        var ids: [Int] = []
        text.withUTF8 { bytes in
            ids.reserveCapacity(bytes.count / 3)
            let splitter = WordSplitter(bytes)
            var start = 0
            while start < bytes.count {
                let end = splitter.endOfWord(from: start)
                encoder.encode(UnsafeBufferPointer(rebasing: bytes[start..<end]), into: &ids)
                start = end
            }
        }
        return ids
    }

    /// The id of the token written exactly `content`, in the byte-level alphabet.
    ///
    /// - Throws: `MiniCPMVError.invalidTokenizer` when there is none.
    public func tokenId(_ content: String) throws -> Int {
        let isContent = { (token: (key: Int, value: String)) in
            token.value.utf8.elementsEqual(content.utf8)
        }
        let bytes = ByteAlphabet.bytes(of: content)
        guard let id = added.first(where: isContent)?.key ?? bytes.flatMap(vocabulary.id) else {
            throw MiniCPMVError.invalidTokenizer(
                "The tokenizer has no token '\(content)'; export the bundle again.")
        }
        return id
    }

    /// Whether the tokenizer marks the token as special (<think> is not, <image> is).
    public func isSpecial(_ id: Int) -> Bool { special.contains(id) }

    /// The bytes that the token stands for; none for ids that only pad the vocabulary.
    public func bytes(of id: Int) -> [UInt8] {
        added[id].map { Array($0.utf8) } ?? Array(vocabulary[id])
    }

    /// The text of `ids`; invalid UTF-8 becomes U+FFFD.
    public func decode(_ ids: [Int], skippingSpecial: Bool = true) -> String {
        var stream = StreamDecoder(self, skippingSpecial: skippingSpecial)
        return ids.reduce(into: "") { $0 += stream.push($1) } + stream.flush()
    }
}
