#if canImport(CoreVideo) && canImport(VideoToolbox) && canImport(CoreGraphics)
    import CoreGraphics
    import CoreVideo
    import VideoToolbox

    extension RGBImage {
        /// A frame of the camera or of a video, in any pixel format, converted by the colours
        /// that the buffer says it has.
        ///
        /// - Parameter orientation: how the frame is stored; the camera connection's rotation.
        /// - Throws: `MiniCPMVError.invalidPicture`.
        public init(_ buffer: CVPixelBuffer, orientation: ImageOrientation = .up) throws {
            var image: CGImage?
            let status = VTCreateCGImageFromCVPixelBuffer(
                buffer, options: nil, imageOut: &image)
            guard status == 0, let image else {
                throw MiniCPMVError.unreadablePicture("The frame (error \(status))")
            }
            try self.init(image, orientation: orientation)
        }
    }
#endif
