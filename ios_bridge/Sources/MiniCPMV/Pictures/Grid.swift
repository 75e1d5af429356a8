/// Cells across and down: slices of a picture, or patches of a view.
public struct Grid: Sendable, Hashable {
    /// Cells across.
    public var columns: Int
    /// Cells down.
    public var rows: Int

    /// A grid of `columns` × `rows` cells.
    public init(columns: Int, rows: Int) {
        self.columns = columns
        self.rows = rows
    }

    /// Number of cells.
    public var count: Int { columns * rows }
}
