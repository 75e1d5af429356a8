/// Cuts UTF-8 text into words as Qwen2's tokenizer does before byte-pair encoding:
///
///     (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}
///     | ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
///
/// Written out by hand, since the regular expressions of different systems disagree about what a
/// letter is.
struct WordSplitter {
    /// The expression that `tokenizer.json` must name.
    static let pattern =
        #"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"#
        + #"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"#

    private let text: UnsafeBufferPointer<UInt8>

    /// - Parameter text: valid UTF-8.
    init(_ text: UnsafeBufferPointer<UInt8>) {
        self.text = text
    }

    /// The end of the word that begins at `start`, which must be inside the text.
    func endOfWord(from start: Int) -> Int {
        let (first, second) = character(at: start)
        if text[start] == UInt8(ascii: "'"), let end = endOfContraction(from: start) { return end }
        switch first {
        case .letter: return end(of: .letter, from: second)
        case .number: return second
        default: break
        }
        let isPrefix = first == .space || first == .other
        if isPrefix, second < text.count, character(at: second).kind == .letter {
            return end(of: .letter, from: second)
        }
        if first == .other { return endOfSymbols(from: start) }
        if text[start] == UInt8(ascii: " "), second < text.count,
            character(at: second).kind == .other
        {
            return endOfSymbols(from: second)
        }
        return endOfSpace(from: start)
    }

    /// Class of the character at `place` and the place after it.
    @inline(__always)
    private func character(at place: Int) -> (kind: CharacterClass, end: Int) {
        let lead = text[place]
        if lead < 0x80 { return (CharacterClasses.ascii[Int(lead)], place + 1) }
        let length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4
        var scalar = UInt32(lead) & (0xFF >> UInt32(length + 1))
        for offset in 1..<length { scalar = scalar << 6 | UInt32(text[place + offset] & 0x3F) }
        return (CharacterClasses.shared[scalar], place + length)
    }

    private func end(of kind: CharacterClass, from start: Int) -> Int {
        var place = start
        while place < text.count {
            let (next, end) = character(at: place)
            guard next == kind else { break }
            place = end
        }
        return place
    }

    /// Symbols and the line breaks that follow them.
    private func endOfSymbols(from start: Int) -> Int {
        end(of: .newline, from: end(of: .other, from: start))
    }

    /// A run of white space: up to its last line break; else all but its last character, which goes
    /// to what follows; a single one, or a run at the end of the text, is taken whole.
    private func endOfSpace(from start: Int) -> Int {
        var place = start
        var afterNewline: Int?
        var last = start
        while place < text.count {
            let (kind, end) = character(at: place)
            guard kind == .space || kind == .newline else { break }
            if kind == .newline { afterNewline = end }
            last = place
            place = end
        }
        if let afterNewline { return afterNewline }
        return place == text.count || last == start ? place : last
    }

    /// The end of an apostrophe with s, t, re, ve, m, ll or d, in either case. Case folding takes
    /// the long s (U+017F) for an s.
    private func endOfContraction(from start: Int) -> Int? {
        let following = text[(start + 1)...].prefix(2)
        guard let first = following.first else { return nil }
        if following.elementsEqual([0xC5, 0xBF]) { return start + 3 }
        switch first | 0x20 {
        case UInt8(ascii: "s"), UInt8(ascii: "t"), UInt8(ascii: "m"), UInt8(ascii: "d"):
            return start + 2
        default: break
        }
        guard following.count == 2, let second = following.last else { return nil }
        switch (first | 0x20, second | 0x20) {
        case (UInt8(ascii: "r"), UInt8(ascii: "e")), (UInt8(ascii: "v"), UInt8(ascii: "e")),
            (UInt8(ascii: "l"), UInt8(ascii: "l")):
            return start + 3
        default: return nil
        }
    }
}
