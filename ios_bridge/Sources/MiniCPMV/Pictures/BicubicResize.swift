/// Pillow's `Image.resize(size, BICUBIC)` of an RGB picture, value for value.
///
/// Two passes, each rounded to 8 bits; a side that keeps its length is left alone. Sums are
/// integers, so that any order of additions gives the same picture. The order of the passes shows,
/// and is that of Pillow 13: earlier versions always resized the rows first.
public enum BicubicResize {
    /// Scale a picture.
    ///
    /// - Parameters:
    ///   - image: the picture.
    ///   - width: pixels from left to right of the result, at least 1.
    ///   - height: pixels from top to bottom of the result, at least 1.
    /// - Throws: `MiniCPMVError.invalidPicture` for a side below 1.
    public static func resize(_ image: RGBImage, width: Int, height: Int) throws -> RGBImage {
        guard width >= 1, height >= 1 else {
            throw MiniCPMVError.pictureSize(width: width, height: height)
        }
        if startsWithColumns(image, width: width, height: height) {
            return resizeRows(resizeColumns(image, height: height), width: width)
        }
        return resizeColumns(resizeRows(image, width: width), height: height)
    }

    /// Whether the height loses more than twice as many pixels as the width.
    private static func startsWithColumns(_ image: RGBImage, width: Int, height: Int) -> Bool {
        height < image.height && image.height - height > 2 * (image.width - width)
    }

    private static func resizeRows(_ image: RGBImage, width: Int) -> RGBImage {
        guard width != image.width else { return image }
        let weights = ResampleWeights(source: image.width, output: width)
        let count = 3 * width * image.height
        let pixels = [UInt8](unsafeUninitializedCapacity: count) { output, initialized in
            image.pixels.withUnsafeBufferPointer { source in
                for row in 0..<image.height {
                    let from = source.rebased(3 * row * image.width, count: 3 * image.width)
                    let to = output.rebased(3 * row * width, count: 3 * width)
                    weights.apply(along: from, to: to)
                }
            }
            initialized = count
        }
        return RGBImage(uncheckedWidth: width, height: image.height, pixels: pixels)
    }

    private static func resizeColumns(_ image: RGBImage, height: Int) -> RGBImage {
        guard height != image.height else { return image }
        let weights = ResampleWeights(source: image.height, output: height)
        let length = 3 * image.width
        let pixels = [UInt8](unsafeUninitializedCapacity: length * height) { output, initialized in
            image.pixels.withUnsafeBufferPointer { source in
                for row in 0..<height {
                    let to = output.rebased(row * length, count: length)
                    weights.apply(across: source, length: length, output: row, to: to)
                }
            }
            initialized = length * height
        }
        return RGBImage(uncheckedWidth: image.width, height: height, pixels: pixels)
    }
}

extension UnsafeBufferPointer<UInt8> {
    fileprivate func rebased(_ start: Int, count: Int) -> Self {
        Self(rebasing: self[start..<start + count])
    }
}

extension UnsafeMutableBufferPointer<UInt8> {
    fileprivate func rebased(_ start: Int, count: Int) -> Self {
        Self(rebasing: self[start..<start + count])
    }
}
