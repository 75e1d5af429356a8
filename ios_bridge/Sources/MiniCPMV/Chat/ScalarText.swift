/// Text cut by characters as Unicode counts them. Swift's own operations go by what a reader takes
/// for a character, for which "\r\n" is one, and "\n" with an accent is no line break.
extension String {
    /// Whether the text begins with exactly these scalars.
    func startsExactly(with prefix: String) -> Bool {
        utf8.starts(with: prefix.utf8)
    }

    /// Whether the text ends with exactly these scalars.
    func endsExactly(with suffix: String) -> Bool {
        utf8.reversed().starts(with: suffix.utf8.reversed())
    }

    /// What stands between the occurrences of `marker`, which is not empty.
    func splitExactly(by marker: String) -> [String] {
        let bytes = Array(utf8)
        let pattern = Array(marker.utf8)
        var pieces: [String] = []
        var start = 0
        var place = 0
        while place + pattern.count <= bytes.count {
            if bytes[place..<place + pattern.count].elementsEqual(pattern) {
                pieces.append(String(decoding: bytes[start..<place], as: UTF8.self))
                place += pattern.count
                start = place
            } else {
                place += 1
            }
        }
        return pieces + [String(decoding: bytes[start...], as: UTF8.self)]
    }

    /// The text without the scalars at its start that fulfil `condition`.
    func trimmingStart(where condition: (Unicode.Scalar) -> Bool) -> String {
        String(unicodeScalars.drop(while: condition))
    }

    /// The text without the scalars at its end that fulfil `condition`.
    func trimmingEnd(where condition: (Unicode.Scalar) -> Bool) -> String {
        let last = unicodeScalars.lastIndex { !condition($0) }
        guard let last else { return "" }
        return String(unicodeScalars[...last])
    }
}

extension Unicode.Scalar {
    /// The line feed.
    static func isLineFeed(_ scalar: Unicode.Scalar) -> Bool { scalar == "\n" }

    /// What the published code strips as white space: Python's, four separators included.
    static func isSpace(_ scalar: Unicode.Scalar) -> Bool {
        switch scalar.value {
        case 0x09...0x0D, 0x1C...0x20, 0x85, 0xA0, 0x1680, 0x2000...0x200A, 0x2028, 0x2029,
            0x202F, 0x205F, 0x3000:
            true
        default: false
        }
    }
}
