// The sentences about pictures, the same as in the Python runtime.
extension MiniCPMVError {
    static func pictureSize(width: Int, height: Int) -> MiniCPMVError {
        .invalidPicture(
            "The picture is \(width)×\(height) pixels; give one with at least one pixel.")
    }

    static func pictureValues(given: Int, width: Int, height: Int) -> MiniCPMVError {
        .invalidPicture(
            "\(given) values were given for a picture of \(width)×\(height) pixels; give "
                + "\(3 * width * height), red, green and blue of each pixel.")
    }

    static func maxSliceNums(_ value: Int) -> MiniCPMVError {
        .invalidOption("max_slice_nums is \(value); it must be at least 1.")
    }

    static var sliceModeOff: MiniCPMVError {
        .invalidManifest(
            "The bundle has slice_mode false; only models with slice_mode true work.")
    }

    static func viewTooLong(width: Int, height: Int, patches: Int, limit: Int) -> MiniCPMVError {
        .invalidPicture(
            "The picture scales to \(width)×\(height) pixels, \(patches) patches, and the bundle "
                + "takes \(limit); crop the picture to a less extreme aspect.")
    }

    static func pictureMemory(width: Int, height: Int) -> MiniCPMVError {
        .invalidPicture(
            "There is no memory for a picture of \(width)×\(height) pixels; scale it down.")
    }

    static func unreadablePicture(_ name: String) -> MiniCPMVError {
        .invalidPicture("\(name) is not a picture in a known format, or damaged; convert it.")
    }
}
