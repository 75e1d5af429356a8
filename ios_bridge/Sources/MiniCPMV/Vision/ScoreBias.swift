/// The resampler's score bias: key query · (position + time), with padded patches masked.
///
/// The position is separable, half of the width belonging to the column and half to the row, so
/// that a table a side is enough. Both are computed once; a row of the key query is read only for
/// them and for the times of video frames.
struct ScoreBias {
    private let keyQuery: MappedTable  // (heads · queries, D)
    private let length: Int
    private var side = 0
    private var columns: [Float] = []  // (heads · queries, side)
    private var lines: [Float] = []  // (heads · queries, side)

    /// - Parameters:
    ///   - keyQuery: the bundle's resampler_key_query.
    ///   - length: patches that the graphs take for one frame.
    init(keyQuery: MappedTable, length: Int) {
        self.keyQuery = keyQuery
        self.length = length
    }

    /// The bias of one group of frames, (1, heads · queries, 1, frames · length).
    ///
    /// Each row's maximum is subtracted, which the softmax cancels and float16 rewards.
    mutating func bias(sizes: [Grid], temporalIds: [Int]) -> Tensor {
        grow(to: sizes.map { max($0.columns, $0.rows) }.max() ?? 0)
        let times = products(
            SinCosTables.times(temporalIds, dim: keyQuery.columns), count: temporalIds.count,
            columns: 0..<keyQuery.columns)
        let width = sizes.count * length
        var bias = [Float](repeating: AttentionMask.masked, count: keyQuery.rows * width)
        for row in 0..<keyQuery.rows {
            let top = (0..<sizes.count).map { frame in
                best(row, sizes[frame], times[row * sizes.count + frame])
            }.max() ?? 0
            for (frame, size) in sizes.enumerated() {
                write(
                    &bias, at: row * width + frame * length, row: row, size: size,
                    time: times[row * sizes.count + frame], top: top)
            }
        }
        return Tensor(shape: [1, keyQuery.rows, 1, width], values: bias)
    }

    private func best(_ row: Int, _ size: Grid, _ time: Float) -> Float {
        let start = row * side
        var top = -Float.infinity
        for line in lines[start..<start + size.rows] {
            for column in columns[start..<start + size.columns] {
                top = max(top, line + column + time)
            }
        }
        return top
    }

    private func write(
        _ bias: inout [Float], at start: Int, row: Int, size: Grid, time: Float, top: Float
    ) {
        var target = start
        let first = row * side
        for line in lines[first..<first + size.rows] {
            for column in columns[first..<first + size.columns] {
                bias[target] = max(line + column + time - top, AttentionMask.masked)
                target += 1
            }
        }
    }

    private mutating func grow(to needed: Int) {
        guard needed > side else { return }
        side = needed
        let half = keyQuery.columns / 2
        let table = SinCosTables.positions(Array(0..<side), dim: half)
        columns = products(table, count: side, columns: 0..<half)
        lines = products(table, count: side, columns: half..<2 * half)
    }

    /// (heads · queries, count): part `columns` of the key query times each of the `count` vectors.
    private func products(_ vectors: [Float], count: Int, columns: Range<Int>) -> [Float] {
        var products = [Float](repeating: 0, count: keyQuery.rows * count)
        for row in 0..<keyQuery.rows {
            let query = Array(keyQuery.row(row)[columns])
            for index in 0..<count {
                products[row * count + index] = dot(
                    query, vectors, from: index * query.count)
            }
        }
        return products
    }

    private func dot(_ left: [Float], _ right: [Float], from start: Int) -> Float {
        left.withUnsafeBytes { left in
            right.withUnsafeBytes { right in
                let count = left.count / MemoryLayout<Float>.stride
                var sums = SIMD8<Float>()
                let whole = count / 8 * 8
                for index in stride(from: 0, to: whole, by: 8) {
                    let (a, b) = (4 * index, 4 * (start + index))
                    sums +=
                        left.loadUnaligned(fromByteOffset: a, as: SIMD8<Float>.self)
                        * right.loadUnaligned(fromByteOffset: b, as: SIMD8<Float>.self)
                }
                var sum = sums.sum()
                for index in whole..<count {
                    sum +=
                        left.load(fromByteOffset: 4 * index, as: Float.self)
                        * right.load(fromByteOffset: 4 * (start + index), as: Float.self)
                }
                return sum
            }
        }
    }
}
