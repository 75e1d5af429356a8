import Foundation

/// The directory of a ZIP archive, ZIP64 included, and the contents of its files.
struct ZipArchive {
    /// A file of the archive.
    struct Entry {
        let path: String
        let isDeflated: Bool
        let compressedSize: Int
        let size: Int
        fileprivate let headerOffset: Int
    }

    private static let blockSize = 1 << 16
    private static let maxDirectorySize = 1 << 26

    /// Files by path; folders are left out.
    let entries: [String: Entry]
    private let file: RandomAccessFile
    private let path: String

    /// Read the directory of the archive.
    ///
    /// - Throws: `MiniCPMVError.damagedFile` for what is no archive, or uses what this reader does
    ///   not know: encryption, several volumes, other methods than stored and deflated.
    init(_ url: URL) throws {
        path = url.path
        file = try RandomAccessFile(url)
        let directory = try Self.directory(of: file, path)
        entries = try Self.entries(directory, path)
    }

    /// Give the contents of `entry` to `sink`, block by block.
    func read(_ entry: Entry, sink: (ArraySlice<UInt8>) throws -> Void) throws {
        let header = LittleEndian(try file.read(at: entry.headerOffset, count: 30))
        guard header.bytes.count == 30, header.u32(0) == 0x0403_4b50 else {
            throw Self.damaged(path)
        }
        let start = entry.headerOffset + 30 + header.u16(26) + header.u16(28)
        guard entry.compressedSize <= file.size - start else { throw Self.damaged(path) }
        var place = start
        let end = start + entry.compressedSize
        func nextBlock() throws -> [UInt8] {
            let block = try file.read(at: place, count: min(Self.blockSize, end - place))
            place += block.count
            guard !block.isEmpty || place == end else { throw Self.damaged(path) }
            return block
        }
        guard entry.isDeflated else {
            while place < end { try sink(nextBlock()[...]) }
            return
        }
        var block: [UInt8] = []
        var next = 0
        var inflate = Inflate(expected: entry.size) {
            if next == block.count {
                block = try nextBlock()
                next = 0
            }
            guard next < block.count else { return nil }
            defer { next += 1 }
            return block[next]
        }
        do {
            try inflate.run(sink: sink)
        } catch is Inflate.Damaged {
            throw Self.damaged(path)
        }
    }

    static func damaged(_ path: String) -> MiniCPMVError {
        .damagedFile("\(path) is not a ZIP archive that this program reads; download it again.")
    }

    /// The bytes of the central directory.
    private static func directory(of file: RandomAccessFile, _ path: String) throws -> [UInt8] {
        let tailSize = min(file.size, 22 + 65_535)
        let tailStart = file.size - tailSize
        let tail = LittleEndian(try file.read(at: tailStart, count: tailSize))
        let marker: [UInt8] = [0x50, 0x4b, 0x05, 0x06]
        let places = stride(from: tailSize - 22, through: 0, by: -1)
        guard let end = places.first(where: { tail.bytes[$0..<$0 + 4].elementsEqual(marker) })
        else { throw damaged(path) }
        var size = tail.u32(end + 12)
        var offset = tail.u32(end + 16)
        if size == 0xFFFF_FFFF || offset == 0xFFFF_FFFF || tail.u16(end + 10) == 0xFFFF {
            (size, offset) = try directory64(file, before: tailStart + end, path)
        }
        guard size >= 0, size <= maxDirectorySize, offset >= 0, offset <= file.size - size else {
            throw damaged(path)
        }
        return try file.read(at: offset, count: size)
    }

    private static func directory64(
        _ file: RandomAccessFile, before end: Int, _ path: String
    ) throws -> (size: Int, offset: Int) {
        guard end >= 20 else { throw damaged(path) }
        let locator = LittleEndian(try file.read(at: end - 20, count: 20))
        guard locator.bytes.count == 20, locator.u32(0) == 0x0706_4b50 else { throw damaged(path) }
        let record = LittleEndian(try file.read(at: locator.u64(8), count: 56))
        guard record.bytes.count == 56, record.u32(0) == 0x0606_4b50 else { throw damaged(path) }
        return (record.u64(40), record.u64(48))
    }

    private static func entries(_ directory: [UInt8], _ path: String) throws -> [String: Entry] {
        let directory = LittleEndian(directory)
        var entries: [String: Entry] = [:]
        var place = 0
        while place + 46 <= directory.bytes.count, directory.u32(place) == 0x0201_4b50 {
            let nameEnd = place + 46 + directory.u16(place + 28)
            let end = nameEnd + directory.u16(place + 30)
            let next = end + directory.u16(place + 32)
            guard next <= directory.bytes.count else { throw damaged(path) }
            let name = String(decoding: directory.bytes[place + 46..<nameEnd], as: UTF8.self)
            if !name.hasSuffix("/") {
                let extra = LittleEndian(Array(directory.bytes[nameEnd..<end]))
                entries[name] = try entry(directory, place, name, extra, path)
            }
            place = next
        }
        return entries
    }

    private static func entry(
        _ directory: LittleEndian, _ place: Int, _ name: String, _ extra: LittleEndian,
        _ path: String
    ) throws -> Entry {
        let method = directory.u16(place + 10)
        let isEncrypted = directory.u16(place + 8) & 1 == 1
        guard method == 0 || method == 8, !isEncrypted else { throw damaged(path) }
        var large = extra.field(1)[...]
        func number(_ small: Int) throws -> Int {
            guard small == 0xFFFF_FFFF else { return small }
            guard large.count >= 8 else { throw damaged(path) }
            defer { large = large.dropFirst(8) }
            return LittleEndian(Array(large)).u64(0)
        }
        // In this order, and only where the 32-bit field is full.
        let size = try number(directory.u32(place + 24))
        let compressedSize = try number(directory.u32(place + 20))
        let offset = try number(directory.u32(place + 42))
        guard size >= 0, compressedSize >= 0, offset >= 0, method == 8 || size == compressedSize
        else { throw damaged(path) }
        return Entry(
            path: name, isDeflated: method == 8, compressedSize: compressedSize, size: size,
            headerOffset: offset)
    }
}

/// Numbers in bytes, the lowest first.
private struct LittleEndian {
    let bytes: [UInt8]

    init(_ bytes: [UInt8]) {
        self.bytes = bytes
    }

    private func number(_ place: Int, _ count: Int) -> UInt64 {
        bytes[place..<place + count].reversed().reduce(0) { $0 << 8 | UInt64($1) }
    }

    func u16(_ place: Int) -> Int { Int(number(place, 2)) }

    func u32(_ place: Int) -> Int { Int(number(place, 4)) }

    /// Negative for numbers beyond 63 bits.
    func u64(_ place: Int) -> Int { Int(truncatingIfNeeded: number(place, 8)) }

    /// The contents of the extra field with this identifier.
    func field(_ identifier: Int) -> [UInt8] {
        var place = 0
        while place + 4 <= bytes.count {
            let end = min(place + 4 + u16(place + 2), bytes.count)
            if u16(place) == identifier { return Array(bytes[place + 4..<end]) }
            place = end
        }
        return []
    }
}
