/// An upright picture of 8 bits a channel: red, green, blue side by side, rows from the top.
public struct RGBImage: Sendable, Equatable {
    /// Pixels from left to right.
    public let width: Int
    /// Pixels from top to bottom.
    public let height: Int
    /// `3 · width · height` values.
    public let pixels: [UInt8]

    /// A picture of given values.
    ///
    /// - Throws: `MiniCPMVError.invalidPicture` for a side below 1 or another number of values.
    public init(width: Int, height: Int, pixels: [UInt8]) throws {
        let (area, overflow) = width.multipliedReportingOverflow(by: height)
        guard width >= 1, height >= 1, !overflow, area <= Int.max / 3 else {
            throw MiniCPMVError.pictureSize(width: width, height: height)
        }
        guard pixels.count == 3 * area else {
            throw MiniCPMVError.pictureValues(
                given: pixels.count, width: width, height: height)
        }
        self.init(uncheckedWidth: width, height: height, pixels: pixels)
    }

    init(uncheckedWidth width: Int, height: Int, pixels: [UInt8]) {
        self.width = width
        self.height = height
        self.pixels = pixels
    }

    /// The part of `width` × `height` pixels whose upper left corner is (`x`, `y`), all inside.
    func cropped(x: Int, y: Int, width: Int, height: Int) -> RGBImage {
        var cut: [UInt8] = []
        cut.reserveCapacity(3 * width * height)
        for row in y..<y + height {
            let start = 3 * (row * self.width + x)
            cut.append(contentsOf: pixels[start..<start + 3 * width])
        }
        return RGBImage(uncheckedWidth: width, height: height, pixels: cut)
    }
}
