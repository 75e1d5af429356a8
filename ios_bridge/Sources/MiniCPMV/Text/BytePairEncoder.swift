/// Byte-pair encoding of one word at a time: the earliest merge first, of equal ones the leftmost.
/// Keeps its buffers between words; the time is n·log n in a word's bytes.
struct BytePairEncoder {
    private static let none = UInt32.max

    private let merges: MergeTable
    /// Id of the token that stands for each byte; −1 for a byte that the vocabulary lacks.
    private let byteIds: [Int32]

    private var ids: [Int32] = []
    private var next: [Int32] = []
    private var previous: [Int32] = []
    /// Rank of the merge of each token with its right neighbour.
    private var ranks: [UInt32] = []
    /// Candidates, a binary heap of rank · 2³² + place; those whose rank has changed are void.
    private var heap: [UInt64] = []

    init(merges: MergeTable, byteIds: [Int32]) {
        self.merges = merges
        self.byteIds = byteIds
    }

    /// Append the tokens of `word` to `output`.
    mutating func encode(_ word: UnsafeBufferPointer<UInt8>, into output: inout [Int]) {
        ids.removeAll(keepingCapacity: true)
        for byte in word where byteIds[Int(byte)] >= 0 { ids.append(byteIds[Int(byte)]) }
        guard ids.count > 1 else {
            output += ids.map(Int.init)
            return
        }
        start()
        while let candidate = popCandidate() {
            let place = Int(candidate & 0xFFFF_FFFF)
            if ranks[place] == UInt32(candidate >> 32) { mergeWithRight(place) }
        }
        var place = 0
        while place >= 0 {
            output.append(Int(ids[place]))
            place = Int(next[place])
        }
    }

    private mutating func start() {
        let count = Int32(ids.count)
        next.removeAll(keepingCapacity: true)
        previous.removeAll(keepingCapacity: true)
        ranks.removeAll(keepingCapacity: true)
        for place in 0..<count {
            next.append(place + 1 < count ? place + 1 : -1)
            previous.append(place - 1)
            ranks.append(Self.none)
        }
        for place in 0..<Int(count) { rank(place) }
    }

    /// Look up the merge of the token at `place` with its right neighbour.
    private mutating func rank(_ place: Int) {
        let right = Int(next[place])
        guard right >= 0, let merge = merges.merge(ids[place], ids[right]) else {
            ranks[place] = Self.none
            return
        }
        ranks[place] = merge.rank
        push(UInt64(merge.rank) << 32 | UInt64(place))
    }

    private mutating func mergeWithRight(_ place: Int) {
        let right = Int(next[place])
        guard right >= 0, let merge = merges.merge(ids[place], ids[right]) else { return }
        ids[place] = merge.id
        ranks[right] = Self.none
        next[place] = next[right]
        if next[place] >= 0 { previous[Int(next[place])] = Int32(place) }
        rank(place)
        if previous[place] >= 0 { rank(Int(previous[place])) }
    }

    private mutating func push(_ candidate: UInt64) {
        var place = heap.count
        heap.append(candidate)
        while place > 0 {
            let parent = (place - 1) / 2
            guard heap[parent] > candidate else { break }
            heap[place] = heap[parent]
            place = parent
        }
        heap[place] = candidate
    }

    private mutating func popCandidate() -> UInt64? {
        guard let first = heap.first, let last = heap.popLast() else { return nil }
        guard !heap.isEmpty else { return first }
        var place = 0
        while true {
            var child = 2 * place + 1
            guard child < heap.count else { break }
            if child + 1 < heap.count, heap[child + 1] < heap[child] { child += 1 }
            guard heap[child] < last else { break }
            heap[place] = heap[child]
            place = child
        }
        heap[place] = last
        return first
    }
}
