/// Decompression of the Deflate format (RFC 1951): bytes from a source to blocks for a sink. Never
/// gives more than it was told to expect.
struct Inflate {
    /// The compressed bytes contradict the format, or each other.
    struct Damaged: Error {}

    private static let windowSize = 1 << 15
    private static let blockSize = 1 << 18
    private static let maxCodeLength = 15
    private static let endOfBlock = 256

    private let nextByte: () throws -> UInt8?
    private let expected: Int
    private var bits: UInt64 = 0
    private var bitCount = 0
    /// Zero bits put behind the end of the source, so that codes can be looked ahead.
    private var paddingCount = 0
    /// The window, then what the sink has not got.
    private var output: [UInt8] = []
    private var given = 0
    private var total = 0

    /// - Parameters:
    ///   - expected: bytes that come out.
    ///   - nextByte: the source; nil at its end.
    init(expected: Int, nextByte: @escaping () throws -> UInt8?) {
        self.expected = expected
        self.nextByte = nextByte
    }

    /// Decompress everything.
    ///
    /// - Throws: `Damaged`, or what source and sink throw.
    mutating func run(sink: (ArraySlice<UInt8>) throws -> Void) throws {
        var isLast = false
        while !isLast {
            isLast = try take(1) == 1
            switch try take(2) {
            case 0: try copyStored(sink)
            case 1: try decode(Self.fixedLiterals, Self.fixedDistances, sink)
            case 2:
                let (literals, distances) = try readTables()
                try decode(literals, distances, sink)
            default: throw Damaged()
            }
        }
        try sink(output[given...])
        guard total == expected else { throw Damaged() }
    }

    // MARK: Bits

    private mutating func fill(_ count: Int) throws {
        while bitCount < count {
            if let byte = try nextByte() {
                bits |= UInt64(byte) << UInt64(bitCount)
            } else {
                paddingCount += 8
            }
            bitCount += 8
        }
    }

    private mutating func drop(_ count: Int) throws {
        bits >>= UInt64(count)
        bitCount -= count
        guard bitCount >= paddingCount else { throw Damaged() }
    }

    private mutating func take(_ count: Int) throws -> Int {
        try fill(count)
        let value = Int(bits & ((1 << UInt64(count)) - 1))
        try drop(count)
        return value
    }

    private mutating func symbol(_ table: [UInt16]) throws -> Int {
        try fill(Self.maxCodeLength)
        let entry = table[Int(bits & 0x7FFF)]
        guard entry & 15 != 0 else { throw Damaged() }
        try drop(Int(entry & 15))
        return Int(entry >> 4)
    }

    // MARK: Output

    private mutating func append(
        _ byte: UInt8, _ sink: (ArraySlice<UInt8>) throws -> Void
    ) throws {
        guard total < expected else { throw Damaged() }
        output.append(byte)
        total += 1
        if output.count >= Self.windowSize + Self.blockSize {
            try sink(output[given...])
            output.removeFirst(output.count - Self.windowSize)
            given = output.count
        }
    }

    private mutating func copyStored(_ sink: (ArraySlice<UInt8>) throws -> Void) throws {
        try drop(bitCount % 8)
        let count = try take(16)
        guard try take(16) == count ^ 0xFFFF else { throw Damaged() }
        for _ in 0..<count { try append(UInt8(take(8)), sink) }
    }

    private mutating func decode(
        _ literals: [UInt16], _ distances: [UInt16], _ sink: (ArraySlice<UInt8>) throws -> Void
    ) throws {
        while true {
            let symbol = try symbol(literals)
            if symbol < Self.endOfBlock {
                try append(UInt8(symbol), sink)
            } else if symbol == Self.endOfBlock {
                return
            } else {
                try copyMatch(symbol, distances, sink)
            }
        }
    }

    private mutating func copyMatch(
        _ symbol: Int, _ distances: [UInt16], _ sink: (ArraySlice<UInt8>) throws -> Void
    ) throws {
        let length = try value(symbol - 257, Self.lengthBases, Self.lengthExtras)
        let distance = try value(
            self.symbol(distances), Self.distanceBases, Self.distanceExtras)
        guard distance <= output.count else { throw Damaged() }
        for _ in 0..<length { try append(output[output.count - distance], sink) }
    }

    private mutating func value(_ code: Int, _ bases: [Int], _ extras: [Int]) throws -> Int {
        guard bases.indices.contains(code) else { throw Damaged() }
        return try bases[code] + take(extras[code])
    }

    // MARK: Codes

    private mutating func readTables() throws -> (literals: [UInt16], distances: [UInt16]) {
        let literalCount = try take(5) + 257
        let distanceCount = try take(5) + 1
        let lengthCount = try take(4) + 4
        var lengths = [Int](repeating: 0, count: 19)
        for place in Self.lengthOrder.prefix(lengthCount) { lengths[place] = try take(3) }
        let table = try Self.table(lengths)
        var all: [Int] = []
        while all.count < literalCount + distanceCount {
            switch try symbol(table) {
            case 16:
                guard let last = all.last else { throw Damaged() }
                all += [Int](repeating: last, count: try take(2) + 3)
            case 17: all += [Int](repeating: 0, count: try take(3) + 3)
            case 18: all += [Int](repeating: 0, count: try take(7) + 11)
            case let length: all.append(length)
            }
        }
        guard all.count == literalCount + distanceCount else { throw Damaged() }
        return (
            try Self.table(Array(all.prefix(literalCount))),
            try Self.table(Array(all.suffix(distanceCount)))
        )
    }

    /// For every 15 bits that may come next: symbol · 16 + length of its code, 0 for no code.
    private static func table(_ lengths: [Int]) throws -> [UInt16] {
        var table = [UInt16](repeating: 0, count: 1 << maxCodeLength)
        var code = 0
        for length in 1...maxCodeLength {
            code <<= 1
            for (symbol, own) in lengths.enumerated() where own == length {
                guard code < 1 << length else { throw Damaged() }
                // Codes come with their highest bit first, the reader has the lowest first.
                let reversed = (0..<length).reduce(0) { $0 << 1 | (code >> $1 & 1) }
                for place in stride(from: reversed, to: table.count, by: 1 << length) {
                    table[place] = UInt16(symbol << 4 | length)
                }
                code += 1
            }
        }
        return table
    }

    private static let lengthOrder = [
        16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15,
    ]
    private static let lengthExtras = [
        0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0,
    ]
    private static let lengthBases: [Int] = {
        // Length 258 has a code of its own.
        bases(of: lengthExtras.dropLast(), from: 3) + [258]
    }()
    private static let distanceExtras = (0..<30).map { max($0 / 2 - 1, 0) }
    private static let distanceBases = bases(of: distanceExtras[...], from: 1)

    private static func bases(of extras: ArraySlice<Int>, from first: Int) -> [Int] {
        var next = first
        return extras.map { extra in
            defer { next += 1 << extra }
            return next
        }
    }

    private static let fixedLengths =
        [Int](repeating: 8, count: 144) + [Int](repeating: 9, count: 112)
        + [Int](repeating: 7, count: 24) + [Int](repeating: 8, count: 8)
    private static let fixedLiterals = (try? table(fixedLengths)) ?? []
    private static let fixedDistances = (try? table([Int](repeating: 5, count: 30))) ?? []
}
