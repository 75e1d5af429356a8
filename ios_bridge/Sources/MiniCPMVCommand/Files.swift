import Foundation
import MiniCPMV

/// Files that a subcommand reads.
enum Input {
    /// The bytes of the file at `path`.
    static func data(_ path: String) throws -> Data {
        do {
            return try Data(contentsOf: URL(fileURLWithPath: path))
        } catch {
            throw MiniCPMVError.missingFile("\(path) cannot be read; give a file.")
        }
    }

    /// The JSON file at `path`, with names in snake_case.
    static func json<Value: Decodable>(_ path: String, as type: Value.Type) throws -> Value {
        let decoder = JSONDecoder()
        decoder.keyDecodingStrategy = .convertFromSnakeCase
        do {
            return try decoder.decode(type, from: data(path))
        } catch let error as DecodingError {
            throw MiniCPMVError.invalidOption("\(path) is not what is needed: \(error).")
        }
    }

    /// A raw picture file: red, green and blue of each pixel, a byte each.
    static func picture(_ path: String, width: Int, height: Int) throws -> RGBImage {
        try RGBImage(width: width, height: height, pixels: [UInt8](data(path)))
    }

    /// A raw file of little-endian float32 values.
    static func floats(_ path: String) throws -> [Float] {
        let bytes = [UInt8](try data(path))
        return bytes.withUnsafeBytes { buffer in
            stride(from: 0, to: bytes.count - 3, by: 4).map { offset in
                let bits = buffer.loadUnaligned(fromByteOffset: offset, as: UInt32.self)
                return Float(bitPattern: UInt32(littleEndian: bits))
            }
        }
    }
}

/// What a subcommand writes.
enum Output {
    /// One line of JSON, names in snake_case and sorted.
    static func json(_ value: some Encodable) throws -> String {
        let encoder = JSONEncoder()
        encoder.keyEncodingStrategy = .convertToSnakeCase
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        return String(decoding: try encoder.encode(value), as: UTF8.self)
    }

    /// Text to the standard output.
    static func write(_ text: String) {
        FileHandle.standardOutput.write(Data(text.utf8))
    }

    /// A raw file of bytes.
    static func write(_ bytes: some ContiguousBytes, to path: String) throws {
        let data = bytes.withUnsafeBytes { Data($0) }
        try data.write(to: URL(fileURLWithPath: path))
    }
}
