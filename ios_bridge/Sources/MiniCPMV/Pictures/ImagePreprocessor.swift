/// One picture for the vision graph: `tgtSize.rows` × `tgtSize.columns` whole patches.
///
/// Pixels stay 8-bit until they are cut: a twelfth of the memory of the normalised patches.
public struct View: Sendable, Equatable {
    /// Sides in patches, (h, w) of the published code.
    public let tgtSize: Grid
    /// The pixels, both sides multiples of the patch size.
    public let image: RGBImage
}

/// The published image processor: a picture in, views cut for the vision graph out.
///
/// It knows neither files nor graphs.
public struct ImagePreprocessor: Sendable {
    /// The constants of the bundle.
    public let config: Preprocessing
    private let levels: [[Float]]  // (channel, 8-bit value) normalised

    /// - Parameter config: constants of the bundle, with three means and deviations.
    public init(_ config: Preprocessing) {
        self.config = config
        levels = zip(config.normMean, config.normStd).map { mean, deviation in
            (0...255).map { (Float($0) / 255 - Float(mean)) / Float(deviation) }
        }
    }

    /// Scale and slice a picture: the overview, then its slices in row-major order.
    ///
    /// - Throws: see `SlicePlan`.
    public func views(of image: RGBImage, maxSliceNums: Int? = nil) throws -> [View] {
        let size = PixelSize(width: image.width, height: image.height)
        let plan = try SlicePlan(size: size, preprocessing: config, maxSliceNums: maxSliceNums)
        let overview = plan.overviewSize
        var views = [
            view(
                try BicubicResize.resize(image, width: overview.width, height: overview.height))
        ]
        if let grid = plan.grid, let refine = plan.refineSize {
            let refined = try BicubicResize.resize(
                image, width: refine.width, height: refine.height)
            views += cells(of: refined, grid: grid).map(view)
        }
        return views
    }

    private func cells(of image: RGBImage, grid: Grid) -> [RGBImage] {
        let (width, height) = (image.width / grid.columns, image.height / grid.rows)
        return (0..<grid.rows).flatMap { row in
            (0..<grid.columns).map { column in
                image.cropped(x: column * width, y: row * height, width: width, height: height)
            }
        }
    }

    private func view(_ image: RGBImage) -> View {
        let patch = config.patchSize
        let size = Grid(columns: image.width / patch, rows: image.height / patch)
        return View(tgtSize: size, image: image)
    }

    /// Refuse a view with more patches than the exported vision graph takes.
    ///
    /// - Throws: `MiniCPMVError.invalidPicture`.
    public func check(_ view: View) throws {
        let count = view.tgtSize.count
        guard count <= config.maxPatches else {
            throw MiniCPMVError.viewTooLong(
                width: view.image.width, height: view.image.height, patches: count,
                limit: config.maxPatches)
        }
    }

    /// The normalised view as one column a patch, ordered (channel, y, x) down the column.
    ///
    /// - Parameter length: columns of the result; those past the view's patches are zero.
    /// - Returns: `3 · patch² · length` values, row by row.
    public func patches(of view: View, length: Int) -> [Float] {
        let patch = config.patchSize
        let (rows, columns) = (view.tgtSize.rows, view.tgtSize.columns)
        var cut = [Float](repeating: 0, count: 3 * patch * patch * length)
        for (channel, level) in levels.enumerated() {
            for y in 0..<patch {
                for x in 0..<patch {
                    let line = ((channel * patch + y) * patch + x) * length
                    for row in 0..<rows {
                        var pixel = 3 * ((row * patch + y) * view.image.width + x) + channel
                        for column in 0..<columns {
                            let value = view.image.pixels[pixel]
                            cut[line + row * columns + column] = level[Int(value)]
                            pixel += 3 * patch
                        }
                    }
                }
            }
        }
        return cut
    }
}
