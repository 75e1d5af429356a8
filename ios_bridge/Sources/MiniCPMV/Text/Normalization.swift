/// Unicode normalization form C, with the tables that the package carries.
struct Normalization: Sendable {
    /// The tables, read once.
    static let shared = Normalization()

    private static let firstSyllable: UInt32 = 0xAC00
    private static let firstLead: UInt32 = 0x1100
    private static let firstVowel: UInt32 = 0x1161
    private static let firstTail: UInt32 = 0x11A7
    private static let leadCount: UInt32 = 19
    private static let vowelCount: UInt32 = 21
    private static let tailCount: UInt32 = 28

    private var combining: [UInt32: UInt8] = [:]
    /// One step; the second part may be 0.
    private var parts: [UInt32: (UInt32, UInt32)] = [:]
    /// Two characters, first · 2³² + second, to what they compose.
    private var composites: [UInt64: UInt32] = [:]
    /// Scalars that may differ in form C from how they stand in a text, one bit each.
    private var sensitive = [UInt64](repeating: 0, count: 0x110000 / 64)

    private init() {
        for row in PackedTable.rows(NormalizationData.combining, width: 2) {
            combining[row[0]] = UInt8(row[1])
            markSensitive(row[0])
        }
        for row in PackedTable.rows(NormalizationData.composed, width: 3) {
            parts[row[0]] = (row[1], row[2])
            composites[UInt64(row[1]) << 32 | UInt64(row[2])] = row[0]
            markSensitive(row[2])
        }
        for row in PackedTable.rows(NormalizationData.decomposed, width: 3) {
            parts[row[0]] = (row[1], row[2])
            markSensitive(row[0])
        }
        for vowel in 0..<Self.vowelCount { markSensitive(Self.firstVowel + vowel) }
        for tail in 1..<Self.tailCount { markSensitive(Self.firstTail + tail) }
    }

    private mutating func markSensitive(_ scalar: UInt32) {
        sensitive[Int(scalar >> 6)] |= 1 << UInt64(scalar & 63)
    }

    private func isSensitive(_ scalar: UInt32) -> Bool {
        sensitive[Int(scalar >> 6)] & (1 << UInt64(scalar & 63)) != 0
    }

    /// `text` in form C. Stretches that are in it already are only copied.
    func composed(_ text: String) -> String {
        guard text.unicodeScalars.contains(where: { isSensitive($0.value) }) else { return text }
        var result = String.UnicodeScalarView()
        var segment: [UInt32] = []
        for scalar in text.unicodeScalars {
            if !isSensitive(scalar.value) {
                append(segment, to: &result)
                segment.removeAll(keepingCapacity: true)
            }
            segment.append(scalar.value)
        }
        append(segment, to: &result)
        return String(result)
    }

    /// Append a character and the sensitive ones that follow it.
    private func append(_ segment: [UInt32], to result: inout String.UnicodeScalarView) {
        guard segment.count > 1 || segment.contains(where: isSensitive) else {
            result.append(contentsOf: segment.compactMap(Unicode.Scalar.init))
            return
        }
        var decomposed: [UInt32] = []
        for scalar in segment { decompose(scalar, into: &decomposed) }
        order(&decomposed)
        result.append(contentsOf: compose(decomposed).compactMap(Unicode.Scalar.init))
    }

    private func decompose(_ scalar: UInt32, into result: inout [UInt32]) {
        if let (first, second) = parts[scalar] {
            decompose(first, into: &result)
            if second != 0 { decompose(second, into: &result) }
        } else if let index = Self.syllableIndex(scalar) {
            let lead = index / (Self.vowelCount * Self.tailCount)
            let vowel = index / Self.tailCount % Self.vowelCount
            let tail = index % Self.tailCount
            result += [Self.firstLead + lead, Self.firstVowel + vowel]
            if tail > 0 { result.append(Self.firstTail + tail) }
        } else {
            result.append(scalar)
        }
    }

    private static func syllableIndex(_ scalar: UInt32) -> UInt32? {
        let index = scalar &- firstSyllable
        return index < leadCount * vowelCount * tailCount ? index : nil
    }

    /// Canonical order: each run of marks sorted by class, equal ones as they stand.
    private func order(_ scalars: inout [UInt32]) {
        var start = 0
        while start < scalars.count {
            guard combining[scalars[start]] != nil else {
                start += 1
                continue
            }
            let end = scalars[start...].firstIndex { combining[$0] == nil } ?? scalars.count
            let marks = scalars[start..<end].map { (mark: $0, class: combining[$0] ?? 0) }
            // Swift's sort is stable in practice and not by promise: the place decides ties.
            let sorted = marks.enumerated().sorted {
                ($0.element.class, $0.offset) < ($1.element.class, $1.offset)
            }
            scalars.replaceSubrange(start..<end, with: sorted.map(\.element.mark))
            start = end
        }
    }

    private func compose(_ scalars: [UInt32]) -> [UInt32] {
        var result: [UInt32] = []
        var starter: Int?
        var lastClass: UInt8 = 0
        for scalar in scalars {
            let kind = combining[scalar] ?? 0
            if let starter, result.count == starter + 1 || (lastClass != 0 && lastClass < kind),
                let composite = composite(result[starter], scalar)
            {
                result[starter] = composite
                continue
            }
            if kind == 0 { starter = result.count }
            lastClass = kind
            result.append(scalar)
        }
        return result
    }

    private func composite(_ first: UInt32, _ second: UInt32) -> UInt32? {
        let lead = first &- Self.firstLead
        let vowel = second &- Self.firstVowel
        if lead < Self.leadCount, vowel < Self.vowelCount {
            return Self.firstSyllable + (lead * Self.vowelCount + vowel) * Self.tailCount
        }
        let tail = second &- Self.firstTail
        if let index = Self.syllableIndex(first), index % Self.tailCount == 0, tail > 0,
            tail < Self.tailCount
        {
            return first + tail
        }
        return composites[UInt64(first) << 32 | UInt64(second)]
    }
}
