import Foundation

/// Sine and cosine tables: the resampler's positions and times.
///
/// Frequencies and angles are the published code's float32 values; sines and cosines are rounded
/// from float64, which is as near as float32 gets.
public enum SinCosTables {
    /// Sines, then cosines of `positions` at dim/2 frequencies 10000^(−2m/dim).
    ///
    /// - Returns: (positions, dim), row by row.
    public static func positions(_ positions: [Int], dim: Int) -> [Float] {
        let omega = frequencies(dim: dim)
        var table: [Float] = []
        table.reserveCapacity(positions.count * dim)
        for position in positions {
            let angles = omega.map { Double(Float(position) * $0) }
            table += angles.map { Float(sin($0)) }
            table += angles.map { Float(cos($0)) }
        }
        return table
    }

    /// Resampler position of each patch, row by row: the column's half of `dim` comes first.
    ///
    /// - Returns: (rows · columns, dim), row by row.
    public static func grid(_ grid: Grid, dim: Int) -> [Float] {
        let half = dim / 2
        let columns = positions(Array(0..<grid.columns), dim: half)
        let rows = positions(Array(0..<grid.rows), dim: half)
        var table: [Float] = []
        table.reserveCapacity(grid.rows * grid.columns * dim)
        for row in 0..<grid.rows {
            for column in 0..<grid.columns {
                table += columns[column * half..<(column + 1) * half]
                table += rows[row * half..<(row + 1) * half]
            }
        }
        return table
    }

    /// Resampler time of each frame from ids in units of 0.1 s; the id −1 gives zeros.
    ///
    /// - Returns: (ids, dim), row by row.
    public static func times(_ temporalIds: [Int], dim: Int) -> [Float] {
        temporalIds.flatMap { id in
            id < 0 ? [Float](repeating: 0, count: dim) : positions([id], dim: dim)
        }
    }

    private static func frequencies(dim: Int) -> [Float] {
        (0..<dim / 2).map { index in
            let exponent = Float(index) / Float(Double(dim) / 2)
            return 1 / Float(pow(10000, Double(exponent)))
        }
    }
}
