import Foundation

/// Why a text is no JSON, with the place.
public struct JSONError: Error, Equatable, Sendable {
    /// What is wrong.
    public let reason: String
    /// Bytes before the place.
    public let offset: Int
}

extension JSONValue {
    /// Parse UTF-8 JSON as RFC 8259 says, without extensions.
    ///
    /// - Throws: `JSONError`.
    public init(parsing data: Data) throws(JSONError) {
        self = try JSONValue(parsing: [UInt8](data))
    }

    /// Parse UTF-8 JSON as RFC 8259 says, without extensions.
    ///
    /// - Throws: `JSONError`.
    public init(parsing bytes: [UInt8]) throws(JSONError) {
        var parser = JSONParser(bytes: bytes)
        self = try parser.parseDocument()
    }
}

private struct JSONParser {
    /// Deeper documents are refused before they exhaust the stack.
    private static let maxDepth = 200

    let bytes: [UInt8]
    private var place = 0

    init(bytes: [UInt8]) {
        self.bytes = bytes
    }

    mutating func parseDocument() throws(JSONError) -> JSONValue {
        skipSpace()
        let value = try parseValue(depth: 0)
        skipSpace()
        guard place == bytes.count else { throw error("more text after the end") }
        return value
    }

    private func error(_ reason: String) -> JSONError { JSONError(reason: reason, offset: place) }

    private var next: UInt8? { place < bytes.count ? bytes[place] : nil }

    private mutating func skipSpace() {
        while let byte = next, byte == 0x20 || byte == 0x0A || byte == 0x0D || byte == 0x09 {
            place += 1
        }
    }

    private mutating func take(_ byte: UInt8) -> Bool {
        guard next == byte else { return false }
        place += 1
        return true
    }

    private mutating func parseValue(depth: Int) throws(JSONError) -> JSONValue {
        guard depth < Self.maxDepth else { throw error("too deeply nested") }
        switch next {
        case UInt8(ascii: "{"): return try parseObject(depth: depth)
        case UInt8(ascii: "["): return try parseArray(depth: depth)
        case UInt8(ascii: "\""): return .string(try parseString())
        case UInt8(ascii: "t"): return try parseWord("true", .bool(true))
        case UInt8(ascii: "f"): return try parseWord("false", .bool(false))
        case UInt8(ascii: "n"): return try parseWord("null", .null)
        default: return try parseNumber()
        }
    }

    private mutating func parseWord(
        _ word: StaticString, _ value: JSONValue
    ) throws(JSONError) -> JSONValue {
        let count = word.utf8CodeUnitCount
        let expected = UnsafeBufferPointer(start: word.utf8Start, count: count)
        guard bytes[place...].prefix(count).elementsEqual(expected) else {
            throw error("a value was expected")
        }
        place += count
        return value
    }

    private mutating func parseObject(depth: Int) throws(JSONError) -> JSONValue {
        var fields: [String: JSONValue] = [:]
        place += 1
        skipSpace()
        if take(UInt8(ascii: "}")) { return .object(fields) }
        while true {
            skipSpace()
            guard next == UInt8(ascii: "\"") else { throw error("a field's name was expected") }
            let name = try parseString()
            skipSpace()
            guard take(UInt8(ascii: ":")) else { throw error("a colon was expected") }
            skipSpace()
            fields[name] = try parseValue(depth: depth + 1)
            skipSpace()
            if take(UInt8(ascii: "}")) { return .object(fields) }
            guard take(UInt8(ascii: ",")) else { throw error("a comma was expected") }
        }
    }

    private mutating func parseArray(depth: Int) throws(JSONError) -> JSONValue {
        var elements: [JSONValue] = []
        place += 1
        skipSpace()
        if take(UInt8(ascii: "]")) { return .array(elements) }
        while true {
            skipSpace()
            elements.append(try parseValue(depth: depth + 1))
            skipSpace()
            if take(UInt8(ascii: "]")) { return .array(elements) }
            guard take(UInt8(ascii: ",")) else { throw error("a comma was expected") }
        }
    }

    private mutating func skipDigits() -> Int {
        let start = place
        while let byte = next, byte >= 0x30 && byte <= 0x39 { place += 1 }
        return place - start
    }

    private mutating func parseNumber() throws(JSONError) -> JSONValue {
        let start = place
        _ = take(UInt8(ascii: "-"))
        let leadingZero = next == UInt8(ascii: "0")
        let digits = skipDigits()
        guard digits == 1 || (digits > 1 && !leadingZero) else { throw error("no value") }
        var isWhole = true
        if take(UInt8(ascii: ".")) {
            isWhole = false
            guard skipDigits() > 0 else { throw error("a digit was expected") }
        }
        if take(UInt8(ascii: "e")) || take(UInt8(ascii: "E")) {
            isWhole = false
            if !take(UInt8(ascii: "-")) { _ = take(UInt8(ascii: "+")) }
            guard skipDigits() > 0 else { throw error("a digit was expected") }
        }
        let text = String(decoding: bytes[start..<place], as: UTF8.self)
        if isWhole, let number = Int(text) { return .integer(number) }
        guard let number = Double(text) else { throw error("no number") }
        return .number(number)
    }

    private mutating func parseString() throws(JSONError) -> String {
        place += 1
        let start = place
        while let byte = next, byte != UInt8(ascii: "\""), byte != UInt8(ascii: "\\") {
            guard byte >= 0x20 else { throw error("a control character in a text") }
            place += 1
        }
        guard next == UInt8(ascii: "\\") else {
            let text = try decoded(bytes[start..<place])
            guard take(UInt8(ascii: "\"")) else { throw error("a text without end") }
            return text
        }
        return try parseEscapedString(Array(bytes[start..<place]))
    }

    private mutating func parseEscapedString(_ head: [UInt8]) throws(JSONError) -> String {
        var content = head
        while let byte = next {
            place += 1
            if byte == UInt8(ascii: "\"") { return try decoded(content[...]) }
            guard byte >= 0x20 else { throw error("a control character in a text") }
            if byte == UInt8(ascii: "\\") {
                content += try parseEscape()
            } else {
                content.append(byte)
            }
        }
        throw error("a text without end")
    }

    private func decoded(_ content: ArraySlice<UInt8>) throws(JSONError) -> String {
        guard let text = String(validating: content, as: UTF8.self) else {
            throw error("a text that is not UTF-8")
        }
        return text
    }

    private mutating func parseEscape() throws(JSONError) -> [UInt8] {
        guard let byte = next else { throw error("a text without end") }
        place += 1
        switch byte {
        case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"): return [byte]
        case UInt8(ascii: "b"): return [0x08]
        case UInt8(ascii: "f"): return [0x0C]
        case UInt8(ascii: "n"): return [0x0A]
        case UInt8(ascii: "r"): return [0x0D]
        case UInt8(ascii: "t"): return [0x09]
        case UInt8(ascii: "u"): return Array(String(try parseEscapedScalar()).utf8)
        default: throw error("an unknown escape")
        }
    }

    private mutating func parseEscapedScalar() throws(JSONError) -> Unicode.Scalar {
        let first = try parseHex()
        if let scalar = Unicode.Scalar(first) { return scalar }
        guard first < 0xDC00, take(UInt8(ascii: "\\")), take(UInt8(ascii: "u")) else {
            throw error("half a character (a lone surrogate)")
        }
        let second = try parseHex()
        guard (0xDC00...0xDFFF).contains(second),
            let scalar = Unicode.Scalar(0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00))
        else { throw error("half a character (a lone surrogate)") }
        return scalar
    }

    private mutating func parseHex() throws(JSONError) -> UInt32 {
        let digits = bytes[place...].prefix(4)
        let isHex = digits.allSatisfy { Character(Unicode.Scalar($0)).isHexDigit }
        let text = String(decoding: digits, as: UTF8.self)
        guard digits.count == 4, isHex, let value = UInt32(text, radix: 16) else {
            throw error("four hexadecimal digits were expected")
        }
        place += 4
        return value
    }
}
