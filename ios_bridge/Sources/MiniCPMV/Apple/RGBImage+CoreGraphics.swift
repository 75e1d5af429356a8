#if canImport(CoreGraphics) && canImport(ImageIO)
    import CoreGraphics
    import Foundation
    import ImageIO

    extension RGBImage {
        /// The pixels of a picture in sRGB, whatever colour space it is in; transparent parts
        /// become white.
        ///
        /// - Parameter orientation: how its pixels are stored: a `CGImage` does not know.
        /// - Throws: `MiniCPMVError.invalidPicture`.
        public init(_ image: CGImage, orientation: ImageOrientation = .up) throws {
            let (width, height) = (image.width, image.height)
            guard width >= 1, height >= 1 else {
                throw MiniCPMVError.pictureSize(width: width, height: height)
            }
            guard let space = CGColorSpace(name: CGColorSpace.sRGB),
                let context = CGContext(
                    data: nil, width: width, height: height, bitsPerComponent: 8,
                    bytesPerRow: 4 * width, space: space,
                    bitmapInfo: CGImageAlphaInfo.noneSkipLast.rawValue),
                let bytes = context.data
            else { throw MiniCPMVError.pictureMemory(width: width, height: height) }
            let whole = CGRect(x: 0, y: 0, width: width, height: height)
            context.setFillColor(red: 1, green: 1, blue: 1, alpha: 1)
            context.fill(whole)
            context.draw(image, in: whole)
            let pixels = Self.withoutFourth(
                UnsafeRawBufferPointer(start: bytes, count: 4 * width * height))
            self = RGBImage(uncheckedWidth: width, height: height, pixels: pixels)
                .upright(from: orientation)
        }

        /// A picture file in any format that the system reads, upright by its own orientation.
        ///
        /// - Throws: `MiniCPMVError.invalidPicture`.
        public init(contentsOf url: URL) throws {
            try self.init(CGImageSourceCreateWithURL(url as CFURL, nil), name: url.path)
        }

        /// The bytes of a picture file, as a photo picker gives them, upright by its own
        /// orientation.
        ///
        /// - Throws: `MiniCPMVError.invalidPicture`.
        public init(data: Data) throws {
            try self.init(
                CGImageSourceCreateWithData(data as CFData, nil), name: "The picture")
        }

        private init(_ source: CGImageSource?, name: String) throws {
            guard let source, let image = CGImageSourceCreateImageAtIndex(source, 0, nil) else {
                throw MiniCPMVError.unreadablePicture(name)
            }
            let properties =
                CGImageSourceCopyPropertiesAtIndex(source, 0, nil) as? [CFString: Any]
            let number = properties?[kCGImagePropertyOrientation] as? NSNumber
            let orientation = ImageOrientation(rawValue: number?.intValue ?? 1) ?? .up
            try self.init(image, orientation: orientation)
        }

        private static func withoutFourth(_ bytes: UnsafeRawBufferPointer) -> [UInt8] {
            let count = bytes.count / 4
            return [UInt8](unsafeUninitializedCapacity: 3 * count) { pixels, initialized in
                for index in 0..<count {
                    pixels[3 * index] = bytes[4 * index]
                    pixels[3 * index + 1] = bytes[4 * index + 1]
                    pixels[3 * index + 2] = bytes[4 * index + 2]
                }
                initialized = 3 * count
            }
        }
    }
#endif
