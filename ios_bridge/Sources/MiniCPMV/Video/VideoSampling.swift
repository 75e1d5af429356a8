import Foundation

/// Settings of the published video sampler.
public struct VideoOptions: Sendable, Hashable {
    /// Frames a second at most.
    public var chooseFps: Int
    /// Groups at most.
    public var maxNumFrames: Int
    /// Frames a group at most, 1 to 6.
    public var maxNumPacking: Int
    /// A fixed number of frames a group, 1 to 6, capped by `maxNumPacking`; nil for automatic.
    public var forcePacking: Int?

    /// The published settings, unless given.
    public init(
        chooseFps: Int = 5, maxNumFrames: Int = 180, maxNumPacking: Int = 3,
        forcePacking: Int? = nil
    ) {
        self.chooseFps = chooseFps
        self.maxNumFrames = maxNumFrames
        self.maxNumPacking = maxNumPacking
        self.forcePacking = forcePacking
    }
}

/// What the sampler needs to know of a video.
public struct VideoInfo: Sendable, Hashable {
    /// Frames of the video.
    public var frameCount: Int
    /// Average frames a second.
    public var fps: Double

    /// A video of `frameCount` frames at `fps` a second.
    public init(frameCount: Int, fps: Double) {
        self.frameCount = frameCount
        self.fps = fps
    }
}

/// Which frames of a video to show, and how they are packed for the resampler.
public struct FramePlan: Sendable, Hashable {
    /// Seconds that a temporal id stands for.
    public static let timeScale = 0.1

    /// Ascending frame numbers; a slow video may repeat some.
    public let indices: [Int]
    /// Groups of the frames' times in units of 0.1 s.
    public let temporalIds: [[Int]]

    /// Choose frames from the centres of equal segments and group their times.
    ///
    /// The published sampler fails on clips too short for one frame; here they give one.
    ///
    /// - Throws: `MiniCPMVError`: `invalidOption` or `invalidVideo`.
    public init(_ info: VideoInfo, options: VideoOptions = VideoOptions()) throws {
        try Self.check(options)
        guard info.frameCount >= 1, info.fps > 0, info.fps < .infinity else {
            throw MiniCPMVError.videoWithoutFrames(count: info.frameCount, fps: info.fps)
        }
        let duration = Double(info.frameCount) / info.fps
        guard duration < Self.longest else { throw MiniCPMVError.videoTooLong(duration) }
        var (count, packing) = Self.countAndPacking(duration, fps: info.fps, options)
        if let forced = options.forcePacking {
            packing = min(forced, options.maxNumPacking)
        }
        let gap = Double(info.frameCount) / Double(count)
        indices = (0..<count).map { Int(Double($0) * gap + gap / 2) }
        let ids = indices.map { Self.snapped(Double($0) / info.fps, duration: duration) }
        temporalIds = try Self.group(ids, packing: packing)
    }

    private static let longest = 1e9  // seconds; ids stay far inside an Int

    private static func check(_ options: VideoOptions) throws {
        let packings = [
            ("max_num_packing", options.maxNumPacking),
            ("force_packing", options.forcePacking ?? 1),
        ]
        for (name, value) in packings where !(1...6).contains(value) {
            throw MiniCPMVError.packing(name: name, value: value)
        }
        guard options.chooseFps >= 1, options.maxNumFrames >= 1 else {
            throw MiniCPMVError.videoRate(
                chooseFps: options.chooseFps, maxNumFrames: options.maxNumFrames)
        }
    }

    private static func countAndPacking(
        _ duration: Double, fps: Double, _ options: VideoOptions
    ) -> (count: Int, packing: Int) {
        let (limit, rate) = (Double(options.maxNumFrames), Double(options.chooseFps))
        if rate * duration.rounded(.towardZero) <= limit {
            let whole = fps.rounded(.toNearestOrEven)
            // Of slow slides, the published sampler takes none.
            let perSecond = min(rate, whole == 0 ? fps : whole)
            let count = (perSecond * min(limit, duration)).rounded(.toNearestOrEven)
            return (max(1, Int(count)), 1)
        }
        let packing = (duration * rate / limit).rounded(.up)
        if packing <= Double(options.maxNumPacking) {
            return (Int((duration * rate).rounded(.toNearestOrEven)), Int(packing))
        }
        return (options.maxNumFrames * options.maxNumPacking, options.maxNumPacking)
    }

    /// The time as an id on the published 0.1 s grid inside the video; a tie takes the earlier.
    ///
    /// The division truncates: in float64, some grid points k · 0.1 / 0.1 come out just below k,
    /// so their id is k − 1, as published.
    private static func snapped(_ time: Double, duration: Double) -> Int {
        let last = Int((duration / timeScale).rounded(.up)) - 1
        var above = max(Int(time / timeScale) - 1, 0)
        while above < last, Double(above) * timeScale < time { above += 1 }
        above = min(above, last)
        let below = max(above - 1, 0)
        let (before, after) = (Double(below) * timeScale, Double(above) * timeScale)
        let nearest = time - before <= abs(after - time) ? before : after
        return Int(nearest / timeScale)
    }

    /// Split ids into consecutive groups of `packing`, the last one possibly shorter.
    ///
    /// For pictures without times, their numbers serve as ids.
    /// - Throws: `MiniCPMVError.invalidOption` outside 1 to 6.
    public static func group(_ ids: [Int], packing: Int) throws -> [[Int]] {
        guard (1...6).contains(packing) else {
            throw MiniCPMVError.packing(name: "packing", value: packing)
        }
        return stride(from: 0, to: ids.count, by: packing).map { start in
            Array(ids[start..<min(start + packing, ids.count)])
        }
    }

    /// Groups of `count` frames without times: alone until there are more than `maxNumFrames`.
    ///
    /// - Throws: `MiniCPMVError.invalidVideo` above six times that.
    public static func groupsOfFrames(count: Int) throws -> [[Int]] {
        let most = VideoOptions().maxNumFrames
        let packing = (count + most - 1) / most
        guard packing <= 6 else { throw MiniCPMVError.tooManyFrames(count) }
        return try group(Array(0..<count), packing: max(packing, 1))
    }
}
