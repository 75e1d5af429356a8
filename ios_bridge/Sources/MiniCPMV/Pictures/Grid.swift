/// Cells across and down: slices of a picture, or patches of a view.
public struct Grid: Sendable, Hashable {
    public var columns: Int
    public var rows: Int

    public init(columns: Int, rows: Int) {
        self.columns = columns
        self.rows = rows
    }

    /// Number of cells.
    public var count: Int { columns * rows }
}
