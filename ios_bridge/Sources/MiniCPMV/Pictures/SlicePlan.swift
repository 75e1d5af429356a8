import Foundation

/// A size in pixels.
public struct PixelSize: Sendable, Hashable {
    /// Pixels from left to right.
    public var width: Int
    /// Pixels from top to bottom.
    public var height: Int

    /// A size of `width` × `height` pixels.
    public init(width: Int, height: Int) {
        self.width = width
        self.height = height
    }
}

/// How a picture is scaled and sliced, by the rules of the published image processor.
///
/// Arithmetic is that of the published code: float64, rounding half to even, truncation.
public struct SlicePlan: Sendable, Hashable {
    /// Size of the whole picture as one view.
    public let overviewSize: PixelSize
    /// Slices across and down; nil when the overview is the only view.
    public let grid: Grid?
    /// The size that is cut into the grid's cells; nil without a grid.
    public let refineSize: PixelSize?

    /// Decide how a picture of `size` is scaled and sliced.
    ///
    /// - Parameter maxSliceNums: replaces the published limit; video frames use 1.
    /// - Throws: `MiniCPMVError`: `invalidPicture` for a side below 1, `invalidOption` for a limit
    ///   below 1, `invalidManifest` for a bundle whose pictures are not sliced.
    public init(
        size: PixelSize, preprocessing config: Preprocessing, maxSliceNums: Int? = nil
    ) throws {
        guard size.width >= 1, size.height >= 1 else {
            throw MiniCPMVError.pictureSize(width: size.width, height: size.height)
        }
        let limit = maxSliceNums ?? config.maxSliceNums
        guard limit >= 1 else { throw MiniCPMVError.maxSliceNums(limit) }
        guard config.sliceMode else { throw MiniCPMVError.sliceModeOff }
        let (width, height) = (Double(size.width), Double(size.height))
        overviewSize = Self.bestResize(width, height, config)
        grid = Self.bestGrid(width, height, scale: config.scaleResolution, limit: limit)
        guard let grid else {
            refineSize = nil
            return
        }
        let (columns, rows) = (Double(grid.columns), Double(grid.rows))
        let refined = (
            Double(Self.ensureDivide(width, by: grid.columns)),
            Double(Self.ensureDivide(height, by: grid.rows))
        )
        let cell = Self.bestResize(refined.0 / columns, refined.1 / rows, config)
        refineSize = PixelSize(
            width: cell.width * grid.columns, height: cell.height * grid.rows)
    }

    private static func ensureDivide(_ length: Double, by divisor: Int) -> Int {
        let quotient = (length / Double(divisor)).rounded(.toNearestOrEven)
        return max(Int(quotient) * divisor, divisor)
    }

    /// The size of nearly scaleResolution² pixels and the same aspect, in whole patches.
    ///
    /// The published code has a switch for sizes below that area; all that it is asked for
    /// enlarges them, an overview with slices being above it.
    private static func bestResize(
        _ width: Double, _ height: Double, _ config: Preprocessing
    ) -> PixelSize {
        let ratio = width / height
        let newHeight = (Double(config.scaleResolution) / ratio.squareRoot()).rounded(.towardZero)
        let newWidth = (newHeight * ratio).rounded(.towardZero)
        return PixelSize(
            width: ensureDivide(newWidth, by: config.patchSize),
            height: ensureDivide(newHeight, by: config.patchSize))
    }

    /// The grid whose aspect is nearest on a log scale; the first of equals wins.
    private static func bestGrid(
        _ width: Double, _ height: Double, scale: Int, limit: Int
    ) -> Grid? {
        let area = (width * height / Double(scale * scale)).rounded(.up)
        let multiple = Int(min(area, Double(limit)))
        guard multiple > 1 else { return nil }
        let logRatio = log(width / height)
        var best: (grid: Grid, distance: Double)?
        for count in [multiple - 1, multiple, multiple + 1] where count != 1 && count <= limit {
            for columns in 1...count where count % columns == 0 {
                let rows = count / columns
                let distance = abs(logRatio - log(Double(columns) / Double(rows)))
                if distance < best?.distance ?? .infinity {
                    best = (Grid(columns: columns, rows: rows), distance)
                }
            }
        }
        return best?.grid
    }
}
