/// Turns token ids into text one by one, holding back the bytes of an incomplete character.
public struct StreamDecoder: Sendable {
    private let tokenizer: Tokenizer
    private let skippingSpecial: Bool
    private var pending: [UInt8] = []

    /// - Parameter skippingSpecial: whether special tokens give no text.
    public init(_ tokenizer: Tokenizer, skippingSpecial: Bool = true) {
        self.tokenizer = tokenizer
        self.skippingSpecial = skippingSpecial
    }

    /// The text that became complete with this token; often empty inside a character.
    public mutating func push(_ id: Int) -> String {
        if skippingSpecial && tokenizer.isSpecial(id) { return "" }
        pending += tokenizer.bytes(of: id)
        let complete = pending.count - Self.incompleteCount(pending)
        let text = String(decoding: pending[..<complete], as: UTF8.self)
        pending.removeFirst(complete)
        return text
    }

    /// End the text: an incomplete character becomes U+FFFD. The decoder can be used again.
    public mutating func flush() -> String {
        let text = String(decoding: pending, as: UTF8.self)
        pending = []
        return text
    }

    /// Bytes at the end that may yet become a character.
    private static func incompleteCount(_ bytes: [UInt8]) -> Int {
        for count in 1...3 where count <= bytes.count {
            let lead = bytes[bytes.count - count]
            if lead & 0xC0 == 0x80 { continue }
            guard lead >= 0xC2, lead <= 0xF4 else { return 0 }
            let length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4
            guard count < length else { return 0 }
            return count == 1 || allowed(after: lead).contains(bytes[bytes.count - count + 1])
                ? count : 0
        }
        return 0
    }

    /// Second bytes with which the character is not yet wrong: no overlong forms, nothing past
    /// U+10FFFF. As in Python, surrogates are found out at the third byte.
    private static func allowed(after lead: UInt8) -> ClosedRange<UInt8> {
        switch lead {
        case 0xE0: 0xA0...0xBF
        case 0xF0: 0x90...0xBF
        case 0xF4: 0x80...0x8F
        default: 0x80...0xBF
        }
    }
}
