import Foundation

#if canImport(CryptoKit)
    import CryptoKit
#endif

/// SHA-256 of bytes that come in pieces: CryptoKit's, which uses the processor's instructions,
/// where there is one.
struct FileDigest {
    private static let blockSize = 1 << 20

    #if canImport(CryptoKit)
        private var hash = SHA256()
    #else
        private var hash = SHA256Stream()
    #endif

    /// Take more bytes.
    mutating func update(_ bytes: UnsafeRawBufferPointer) {
        #if canImport(CryptoKit)
            hash.update(bufferPointer: bytes)
        #else
            hash.update(bytes)
        #endif
    }

    /// The digest of everything taken, in hexadecimal.
    func hexadecimal() -> String {
        #if canImport(CryptoKit)
            let digest = Array(hash.finalize())
        #else
            let digest = hash.digest()
        #endif
        let digits = Array("0123456789abcdef".utf8)
        let text = digest.flatMap { [digits[Int($0 >> 4)], digits[Int($0 & 15)]] }
        return String(decoding: text, as: UTF8.self)
    }

    /// SHA-256 of `bytes`, in hexadecimal.
    static func hexadecimal(of bytes: some ContiguousBytes) -> String {
        var digest = FileDigest()
        bytes.withUnsafeBytes { digest.update($0) }
        return digest.hexadecimal()
    }

    /// SHA-256 of a file, in hexadecimal; `progress` gets the bytes of each block read, and may
    /// throw to stop.
    static func hexadecimal(ofFileAt url: URL, progress: (Int) throws -> Void) throws -> String {
        // A stream reads into our buffer: a FileHandle would leave each block to a later release.
        guard let stream = InputStream(url: url) else { throw CocoaError(.fileReadNoSuchFile) }
        stream.open()
        defer { stream.close() }
        var digest = FileDigest()
        var buffer = [UInt8](repeating: 0, count: blockSize)
        while true {
            let count = stream.read(&buffer, maxLength: blockSize)
            guard count >= 0 else { throw stream.streamError ?? CocoaError(.fileReadUnknown) }
            guard count > 0 else { return digest.hexadecimal() }
            buffer.withUnsafeBytes { digest.update(UnsafeRawBufferPointer(rebasing: $0[..<count])) }
            try progress(count)
        }
    }
}
