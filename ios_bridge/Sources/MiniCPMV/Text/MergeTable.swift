/// Which two neighbouring tokens merge into which, and how early.
struct MergeTable: Sendable {
    /// The outcome of a merge; low ranks merge first.
    struct Merge {
        let rank: UInt32
        let id: Int32
    }

    private static let free = UInt64.max

    /// Open addressing: a pair of ids at its hash.
    private var keys: [UInt64]
    private var merges: [Merge]
    private let mask: Int

    init(capacity: Int) {
        var slotCount = 16
        while slotCount < capacity * 2 { slotCount *= 2 }
        keys = [UInt64](repeating: Self.free, count: slotCount)
        merges = [Merge](repeating: Merge(rank: 0, id: 0), count: slotCount)
        mask = slotCount - 1
    }

    /// Add the merge of `left` and `right`; of equal pairs the last counts.
    mutating func insert(left: Int, right: Int, rank: Int, id: Int) {
        let key = Self.key(Int32(left), Int32(right))
        var slot = Self.slot(key) & mask
        while keys[slot] != Self.free && keys[slot] != key { slot = (slot + 1) & mask }
        keys[slot] = key
        merges[slot] = Merge(rank: UInt32(rank), id: Int32(id))
    }

    /// What the two tokens merge into, if anything.
    func merge(_ left: Int32, _ right: Int32) -> Merge? {
        let key = Self.key(left, right)
        var slot = Self.slot(key) & mask
        while true {
            if keys[slot] == key { return merges[slot] }
            if keys[slot] == Self.free { return nil }
            slot = (slot + 1) & mask
        }
    }

    private static func key(_ left: Int32, _ right: Int32) -> UInt64 {
        UInt64(UInt32(bitPattern: left)) << 32 | UInt64(UInt32(bitPattern: right))
    }

    /// The upper half of a product with 2⁶⁴ divided by the golden ratio.
    private static func slot(_ key: UInt64) -> Int {
        Int(truncatingIfNeeded: (key &* 0x9e37_79b9_7f4a_7c15) >> 32)
    }
}
