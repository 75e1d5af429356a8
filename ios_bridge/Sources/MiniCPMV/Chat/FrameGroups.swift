/// Which frames share one set of embeddings.
enum FrameGroups {
    /// What the resampler was trained on.
    static let maxFrames = 6

    /// Temporal ids of each group of frames; a frame alone has the id −1, which means no time.
    ///
    /// - Throws: `MiniCPMVError.invalidOption` for groups that do not fit the frames.
    static func make(_ media: [MediaLayout], temporalIds: [[Int]]?) throws -> [[Int]] {
        if let temporalIds {
            try check(temporalIds, frameCount: media.reduce(0) { $0 + $1.grids.count })
            return temporalIds
        }
        return try media.flatMap { layout in
            guard let own = layout.temporalIds else {
                return [[Int]](repeating: [-1], count: layout.grids.count)
            }
            try check(own, frameCount: layout.grids.count)
            return own
        }
    }

    /// Refuse other lengths than 1…6, ids below −1, and a sum that is not `frameCount`.
    private static func check(_ groups: [[Int]], frameCount: Int) throws {
        for group in groups
        where !(1...maxFrames).contains(group.count) || group.contains(where: { $0 < -1 }) {
            throw MiniCPMVError.invalidOption(
                "temporal_ids has the group \(Array(group.prefix(8))); a group has 1 to "
                    + "\(maxFrames) ids, each −1 or more.")
        }
        let total = groups.reduce(0) { $0 + $1.count }
        guard total == frameCount else {
            throw MiniCPMVError.invalidOption(
                "temporal_ids describes \(total) pictures and the messages hold \(frameCount); "
                    + "give one id for each picture.")
        }
    }

    /// One group for each view of a group's first frame; all its frames must be cut alike.
    static func views(of groups: [[Int]], grids: [Grid?]) throws -> [ViewGroup] {
        var views: [ViewGroup] = []
        var first = 0
        for times in groups {
            let frames = first..<first + times.count
            let grid = grids[first]
            guard grids[frames].allSatisfy({ $0 == grid }) else {
                throw MiniCPMVError.invalidOption(
                    "The pictures \(first) to \(frames.upperBound - 1) form one group but are "
                        + "sliced differently; use max_slice_nums 1 for video frames.")
            }
            views += (0..<1 + (grid?.count ?? 0)).map {
                ViewGroup(frames: frames, view: $0, temporalIds: times)
            }
            first = frames.upperBound
        }
        return views
    }
}
