/// The tokens of a byte-level vocabulary: bytes to id, id to bytes. All bytes lie in one buffer:
/// 150,000 arrays would cost several times the memory.
struct Vocabulary: Sendable {
    private var bytes: [UInt8] = []
    private var spans: [Range<Int>]
    /// Open addressing: ids at the hash of their bytes, −1 where free.
    private var slots: [Int32]
    private let mask: Int

    /// Number of tokens.
    private(set) var count = 0

    /// - Parameter idCount: one more than the largest id.
    init(capacity: Int, idCount: Int) {
        var slotCount = 16
        while slotCount < capacity * 2 { slotCount *= 2 }
        slots = [Int32](repeating: -1, count: slotCount)
        mask = slotCount - 1
        spans = [Range<Int>](repeating: 0..<0, count: idCount)
    }

    /// Add a token; `id` must be below `idCount`.
    mutating func insert(_ token: [UInt8], id: Int) {
        spans[id] = bytes.count..<bytes.count + token.count
        bytes += token
        var slot = Self.hash(token) & mask
        while slots[slot] >= 0 { slot = (slot + 1) & mask }
        slots[slot] = Int32(id)
        count += 1
    }

    /// The id of the token that stands for exactly these bytes.
    func id(of token: some Collection<UInt8>) -> Int? {
        var slot = Self.hash(token) & mask
        while slots[slot] >= 0 {
            let id = Int(slots[slot])
            if bytes[spans[id]].elementsEqual(token) { return id }
            slot = (slot + 1) & mask
        }
        return nil
    }

    /// The bytes of a token; none for an id without one.
    subscript(id: Int) -> ArraySlice<UInt8> {
        spans.indices.contains(id) ? bytes[spans[id]] : []
    }

    /// FNV-1a, 64 bits.
    private static func hash(_ token: some Collection<UInt8>) -> Int {
        var hash: UInt64 = 0xcbf2_9ce4_8422_2325
        for byte in token { hash = (hash ^ UInt64(byte)) &* 0x0000_0100_0000_01b3 }
        return Int(truncatingIfNeeded: hash ^ (hash >> 32))
    }
}
