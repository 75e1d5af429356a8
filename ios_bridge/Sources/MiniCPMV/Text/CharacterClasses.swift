/// What the word splitter tells apart.
enum CharacterClass: UInt8 {
    case other
    case letter
    case number
    case space
    case newline
}

/// The class of every Unicode scalar, from the tables that the package carries: a system's own
/// change with its release.
struct CharacterClasses: Sendable {
    /// Classes of all scalars; two levels, since most blocks of 256 are alike.
    static let shared = CharacterClasses()
    /// Classes of ASCII characters.
    static let ascii: [CharacterClass] = (0..<128).map { shared[$0] }

    private static let blockSize = 256

    private var blockOf: [UInt16] = []
    private var classes: [CharacterClass] = []

    private init() {
        var flat = [CharacterClass](repeating: .other, count: 0x110000)
        for (data, kind) in [
            (CharacterData.letters, CharacterClass.letter), (CharacterData.numbers, .number),
            (CharacterData.spaces, .space),
        ] {
            for run in PackedTable.runs(data) {
                flat.replaceSubrange(run, with: repeatElement(kind, count: run.count))
            }
        }
        flat[0x0A] = .newline
        flat[0x0D] = .newline
        var known: [[CharacterClass]: UInt16] = [:]
        for start in stride(from: 0, to: flat.count, by: Self.blockSize) {
            let block = Array(flat[start..<start + Self.blockSize])
            let number = known[block] ?? UInt16(known.count)
            if known.updateValue(number, forKey: block) == nil { classes += block }
            blockOf.append(number)
        }
    }

    /// The class of a scalar's value.
    @inline(__always)
    subscript(scalar: UInt32) -> CharacterClass {
        classes[Int(blockOf[Int(scalar >> 8)]) << 8 | Int(scalar & 0xFF)]
    }
}

/// Reads the numbers, in base 36, of the tables that `unicode_tables.py` writes.
enum PackedTable {
    static func numbers(_ text: String) -> [Int] {
        var numbers: [Int] = []
        var number = 0
        for byte in text.utf8 {
            if byte == UInt8(ascii: " ") {
                numbers.append(number)
                number = 0
            } else {
                let isDigit = byte <= UInt8(ascii: "9")
                number = number * 36 + Int(byte) - (isDigit ? 48 : 87)
            }
        }
        return numbers + [number]
    }

    /// Runs given by the gap before and the length of each.
    static func runs(_ text: String) -> [Range<Int>] {
        let numbers = numbers(text)
        var end = 0
        return stride(from: 0, to: numbers.count - 1, by: 2).map { place in
            let start = end + numbers[place]
            end = start + numbers[place + 1]
            return start..<end
        }
    }

    /// Rows of `width` numbers, the first of them given by its distance from the last row's.
    static func rows(_ text: String, width: Int) -> [[UInt32]] {
        let numbers = numbers(text)
        var key = 0
        return stride(from: 0, to: numbers.count - width + 1, by: width).map { place in
            key += numbers[place]
            return [UInt32(key)] + numbers[(place + 1)..<(place + width)].map(UInt32.init)
        }
    }
}
