import Foundation

/// Arrays of float32 in a file of the safetensors format, mapped into memory and read by name.
struct SafetensorsFile: Sendable {
    private struct Entry: Sendable {
        let shape: [Int]
        let range: Range<Int>
    }

    private let data: Data
    private let entries: [String: Entry]

    /// Names of the arrays.
    var names: Set<String> { Set(entries.keys) }

    /// Map a file.
    ///
    /// - Throws: `MiniCPMVError`: `missingFile`, or `damagedFile` when the header contradicts
    ///   itself or the file.
    init(_ url: URL) throws {
        guard let data = try? Data(contentsOf: url, options: .alwaysMapped) else {
            throw MiniCPMVError.missingFile(
                "\(url.path) cannot be read; copy or export the bundle again.")
        }
        guard let entries = Self.entries(data) else {
            throw MiniCPMVError.damagedFile(
                "\(url.path) is no safetensors file of float32 arrays; write the golden vectors "
                    + "again with `python -m validation parity BUNDLE --write-golden`.")
        }
        self.data = data
        self.entries = entries
    }

    /// The array called `name`.
    ///
    /// - Throws: `MiniCPMVError.damagedFile` when there is none.
    func tensor(_ name: String) throws -> Tensor {
        guard let entry = entries[name] else {
            throw MiniCPMVError.damagedFile(
                "The golden vectors lack \(name); write them again with "
                    + "`python -m validation parity BUNDLE --write-golden`.")
        }
        let count = entry.range.count / 4
        let values = data.withUnsafeBytes { bytes in
            [Float](unsafeUninitializedCapacity: count) { values, initialized in
                for index in 0..<count {
                    let bits = bytes.loadUnaligned(
                        fromByteOffset: entry.range.lowerBound + 4 * index, as: UInt32.self)
                    values[index] = Float(bitPattern: UInt32(littleEndian: bits))
                }
                initialized = count
            }
        }
        return Tensor(shape: entry.shape, values: values)
    }

    /// The header: 8 bytes with its length, then JSON; nil when it is none.
    private static func entries(_ data: Data) -> [String: Entry]? {
        guard data.count >= 8 else { return nil }
        let length = data.withUnsafeBytes {
            UInt64(littleEndian: $0.loadUnaligned(fromByteOffset: 0, as: UInt64.self))
        }
        guard length <= UInt64(data.count - 8) else { return nil }
        let start = 8 + Int(length)
        guard let header = try? JSONValue(parsing: Data(data[8..<start])).object else {
            return nil
        }
        var entries: [String: Entry] = [:]
        for (name, value) in header where name != "__metadata__" {
            guard let entry = entry(value, start: start, end: data.count) else { return nil }
            entries[name] = entry
        }
        return entries
    }

    private static func entry(_ value: JSONValue, start: Int, end: Int) -> Entry? {
        guard let fields = value.object, fields["dtype"]?.string == "F32",
            let shape = fields["shape"]?.array?.map(\.integer),
            let offsets = fields["data_offsets"]?.array?.map(\.integer), offsets.count == 2,
            let first = offsets[0], let last = offsets[1],
            0 <= first, first <= last, last <= end - start
        else { return nil }
        var bytes = 4
        var sides: [Int] = []
        for side in shape {
            guard let side, side >= 0 else { return nil }
            let (product, overflow) = bytes.multipliedReportingOverflow(by: side)
            if overflow { return nil }
            bytes = product
            sides.append(side)
        }
        guard last - first == bytes else { return nil }
        return Entry(shape: sides, range: start + first..<start + last)
    }
}
