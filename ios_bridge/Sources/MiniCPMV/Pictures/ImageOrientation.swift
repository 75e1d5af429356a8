/// How the stored pixels of a picture have to be turned to stand upright; numbers as in EXIF.
public enum ImageOrientation: Int, CaseIterable, Sendable {
    /// Upright.
    case up = 1
    /// Mirrored left to right.
    case upMirrored
    /// Turned by half a turn.
    case down
    /// Mirrored top to bottom.
    case downMirrored
    /// Mirrored, then to be turned left.
    case leftMirrored
    /// To be turned right, as most portrait photos.
    case right
    /// Mirrored, then to be turned right.
    case rightMirrored
    /// To be turned left.
    case left
}

extension RGBImage {
    /// The picture upright, given how its pixels are stored.
    public func upright(from orientation: ImageOrientation) -> RGBImage {
        if orientation == .up { return self }
        let swapped = orientation.rawValue >= 5
        let (columns, rows) = swapped ? (height, width) : (width, height)
        var turned = [UInt8](repeating: 0, count: pixels.count)
        for y in 0..<rows {
            for x in 0..<columns {
                let (fromX, fromY) = source(x, y, orientation)
                let (from, to) = (3 * (fromY * width + fromX), 3 * (y * columns + x))
                for channel in 0..<3 { turned[to + channel] = pixels[from + channel] }
            }
        }
        return RGBImage(uncheckedWidth: columns, height: rows, pixels: turned)
    }

    /// Where the stored pixel of the upright pixel (x, y) is.
    private func source(_ x: Int, _ y: Int, _ orientation: ImageOrientation) -> (Int, Int) {
        switch orientation {
        case .up: (x, y)
        case .upMirrored: (width - 1 - x, y)
        case .down: (width - 1 - x, height - 1 - y)
        case .downMirrored: (x, height - 1 - y)
        case .leftMirrored: (y, x)
        case .right: (y, height - 1 - x)
        case .rightMirrored: (width - 1 - y, height - 1 - x)
        case .left: (width - 1 - y, x)
        }
    }
}
