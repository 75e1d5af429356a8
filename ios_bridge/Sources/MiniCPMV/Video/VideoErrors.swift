// The sentences about videos, the same as in the Python runtime.
extension MiniCPMVError {
    static func videoWithoutFrames(count: Int, fps: Double) -> MiniCPMVError {
        .invalidVideo("The video has \(count) frames at \(fps) a second; give one with frames.")
    }

    static func videoTooLong(_ seconds: Double) -> MiniCPMVError {
        .invalidVideo("The video lasts \(seconds) seconds; give one of less than a billion.")
    }

    static func tooManyFrames(_ count: Int) -> MiniCPMVError {
        .invalidVideo("A video of \(count) frames is too long; give at most 1080 of them.")
    }

    static var noFrames: MiniCPMVError {
        .invalidVideo("A video given as a list of frames needs at least one frame.")
    }

    static func packing(name: String, value: Int) -> MiniCPMVError {
        .invalidOption("\(name) is \(value); it must be 1 to 6.")
    }

    static func videoRate(chooseFps: Int, maxNumFrames: Int) -> MiniCPMVError {
        .invalidOption(
            "choose_fps is \(chooseFps) and max_num_frames \(maxNumFrames); "
                + "both must be at least 1.")
    }

    static func unreadableVideo(_ reason: String) -> MiniCPMVError {
        .invalidVideo("The video cannot be read (\(reason)); convert it to H.264 or HEVC.")
    }
}
