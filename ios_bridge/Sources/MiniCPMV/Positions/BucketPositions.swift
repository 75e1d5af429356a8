/// Rows of the vision tower's position table, in the published code's float32 steps.
public enum BucketPositions {
    private static let arangeLanes = 8  // float32 lanes of AVX2, on which the published ids depend

    /// Row (or column) of the position table for each of `count` rows (or columns) of patches.
    ///
    /// Nearly ⌊buckets · i / count⌋; counts of 25, 49, 50, 55, 58 and larger ones differ by one
    /// somewhere.
    public static func buckets(count: Int, buckets: Int) -> [Int] {
        let boundaries = (1..<max(buckets, 1)).map { Float(Double($0) / Double(buckets)) }
        var bucket = 0
        return unitSteps(count).map { step in
            while bucket < boundaries.count, boundaries[bucket] <= step { bucket += 1 }
            return bucket
        }
    }

    /// Row of the position table for each patch of `grid`, row by row.
    public static func positionIds(_ grid: Grid, buckets: Int) -> [Int] {
        let rows = Self.buckets(count: grid.rows, buckets: buckets)
        let columns = Self.buckets(count: grid.columns, buckets: buckets)
        return rows.flatMap { row in columns.map { row * buckets + $0 } }
    }

    /// `torch.arange(0, 1 - 1e-6, 1 / count)` in float32 as x86 computes it.
    ///
    /// Whole pairs of registers hold fp32(fp32(step · first index) + lane · step), the rest
    /// step · i.
    private static func unitSteps(_ count: Int) -> [Float] {
        let step = Double(1 / Float(count))
        let vectorized = count - count % (2 * arangeLanes)
        return (0..<count).map { index in
            let lane = index < vectorized ? index % arangeLanes : 0
            let start = Double(Float(step * Double(index - lane)))
            return Float(start + Double(lane) * step)
        }
    }
}
