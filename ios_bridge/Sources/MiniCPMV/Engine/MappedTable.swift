import Foundation

/// A raw matrix of the bundle, mapped into memory and read row by row.
public struct MappedTable: Sendable {
    /// Number of rows; vectors count as rows of one value.
    public let rows: Int
    /// Values a row.
    public let columns: Int
    private let data: Data
    private let type: ElementType

    private enum ElementType: String {
        case float16, float32, int8

        var size: Int {
            switch self {
            case .int8: 1
            case .float16: 2
            case .float32: 4
            }
        }
    }

    /// Map a file.
    ///
    /// - Parameters:
    ///   - url: the file.
    ///   - file: its entry in the manifest.
    /// - Throws: `missingFile`, `damagedFile` for another size, `invalidManifest` for a type that
    ///   is none of float16, float32, int8.
    public init(_ url: URL, _ file: TensorFile) throws {
        guard let type = ElementType(rawValue: file.dtype), (1...2).contains(file.shape.count),
            file.shape.allSatisfy({ $0 > 0 && $0 < 1 << 31 })
        else {
            throw MiniCPMVError.invalidManifest(
                "\(file.path) has the type \(file.dtype) and the shape \(file.shape); tables are "
                    + "float16, float32 or int8, of one or two axes; export the bundle again.")
        }
        self.type = type
        rows = file.shape[0]
        columns = file.shape.count == 2 ? file.shape[1] : 1
        do {
            data = try Data(contentsOf: url, options: .alwaysMapped)
        } catch {
            throw MiniCPMVError.missingFile(
                "The bundle lacks \(file.path); copy or export the bundle again.")
        }
        let needed = rows * columns * type.size
        guard data.count == needed else {
            throw MiniCPMVError.damagedFile(
                "\(file.path) has \(data.count) bytes, its shape needs \(needed); "
                    + "copy or export the bundle again.")
        }
    }

    /// The values of one row, which must be below `rows`.
    public func row(_ index: Int) -> [Float] {
        let start = index * columns * type.size
        return data.withUnsafeBytes { bytes in
            [Float](unsafeUninitializedCapacity: columns) { values, initialized in
                for column in 0..<columns {
                    values[column] = value(bytes, start + column * type.size)
                }
                initialized = columns
            }
        }
    }

    @inline(__always)
    private func value(_ bytes: UnsafeRawBufferPointer, _ offset: Int) -> Float {
        switch type {
        case .int8:
            return Float(Int8(bitPattern: bytes[offset]))
        case .float16:
            let bits = bytes.loadUnaligned(fromByteOffset: offset, as: UInt16.self)
            return Float(halfBits: UInt16(littleEndian: bits))
        case .float32:
            let bits = bytes.loadUnaligned(fromByteOffset: offset, as: UInt32.self)
            return Float(bitPattern: UInt32(littleEndian: bits))
        }
    }
}

extension Float {
    /// The value of IEEE half-precision bits. Swift's own Float16 is missing on Intel Macs.
    init(halfBits bits: UInt16) {
        let sign = UInt32(bits & 0x8000) << 16
        let rest = UInt32(bits & 0x7FFF)
        if rest >= 0x7C00 {  // infinity or NaN
            self.init(bitPattern: sign | 0x7F80_0000 | (rest & 0x3FF) << 13)
        } else {
            // 2¹¹² moves the exponent's bias from 15 to 127, for subnormal numbers too.
            let magnitude = Float(bitPattern: rest << 13) * 0x1p112
            self.init(bitPattern: sign | magnitude.bitPattern)
        }
    }
}
