import XCTest

@testable import MiniCPMV

/// Messages and digests of FIPS 180-4's examples.
final class SHA256Tests: XCTestCase {
    private let examples = [
        "": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "abc": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq":
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
        String(repeating: "a", count: 1_000_000):
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0",
    ]

    private func hexadecimal(_ bytes: [UInt8]) -> String {
        bytes.map { String($0 >> 4, radix: 16) + String($0 & 15, radix: 16) }.joined()
    }

    func testPublishedExamples() {
        for (text, digest) in examples {
            XCTAssertEqual(FileDigest.hexadecimal(of: Array(text.utf8)), digest)
            var stream = SHA256Stream()
            Array(text.utf8).withUnsafeBytes { stream.update($0) }
            XCTAssertEqual(hexadecimal(stream.digest()), digest)
        }
    }

    func testPiecesOfAnySizeGiveTheSameDigest() {
        let bytes = Array(String(repeating: "a", count: 1_000_000).utf8)
        for size in [1000, 64, 65, 4097] {
            var stream = SHA256Stream()
            for start in stride(from: 0, to: bytes.count, by: size) {
                bytes[start..<min(start + size, bytes.count)].withUnsafeBytes { stream.update($0) }
            }
            XCTAssertEqual(
                hexadecimal(stream.digest()),
                "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0")
        }
    }
}
