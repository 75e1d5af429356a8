/// Finds the k-th largest of many scores in one pass: a heap of the largest ones so far.
enum LargestScores {
    /// The `count`-th largest of `scores`; `count` is at least 1 and at most their number.
    static func threshold(_ scores: [Float], count: Int) -> Float {
        var heap = Array(scores[..<count])  // the smallest of the largest comes first
        for parent in stride(from: count / 2 - 1, through: 0, by: -1) { sink(&heap, parent) }
        for score in scores[count...] where score > heap[0] {
            heap[0] = score
            sink(&heap, 0)
        }
        return heap[0]
    }

    private static func sink(_ heap: inout [Float], _ start: Int) {
        var parent = start
        while 2 * parent + 1 < heap.count {
            var child = 2 * parent + 1
            if child + 1 < heap.count, heap[child + 1] < heap[child] { child += 1 }
            guard heap[child] < heap[parent] else { return }
            heap.swapAt(parent, child)
            parent = child
        }
    }
}
