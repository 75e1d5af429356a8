/// The printable character that stands for each byte in a byte-level vocabulary: printable Latin-1
/// characters stand for themselves, the other bytes for U+0100 onwards.
enum ByteAlphabet {
    private static let byteOfScalar: [UInt8?] = {
        let visible = Set([0x21...0x7E, 0xA1...0xAC, 0xAE...0xFF].joined())
        let hidden = (0...255).filter { !visible.contains($0) }
        let own = (0...255).map { visible.contains($0) ? UInt8($0) : nil }
        return own + hidden.map { UInt8($0) }
    }()

    /// The bytes that a token of the vocabulary stands for; nil when it is not written in the
    /// alphabet.
    static func bytes(of token: String) -> [UInt8]? {
        var bytes: [UInt8] = []
        for scalar in token.unicodeScalars {
            guard scalar.value < byteOfScalar.count, let byte = byteOfScalar[Int(scalar.value)]
            else { return nil }
            bytes.append(byte)
        }
        return bytes
    }
}
