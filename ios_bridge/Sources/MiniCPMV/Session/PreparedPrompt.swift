/// What the cache holds at one position: a token, or one embedding of a group of views.
enum CacheKey: Hashable, Sendable {
    case token(Int)
    /// `digest` identifies the group by its pixels, sizes and times.
    case picture(digest: String, row: Int)
}

/// Views that the resampler packs into one run of placeholders.
struct PictureGroup: Sendable {
    let views: [View]
    let temporalIds: [Int]
    /// Identifies the group by its pixels, sizes and times.
    let digest: String

    init(views: [View], temporalIds: [Int]) {
        self.views = views
        self.temporalIds = temporalIds
        var digest = FileDigest()
        digest.update(numbers: [temporalIds.count] + temporalIds)
        for view in views {
            digest.update(numbers: [view.tgtSize.rows, view.tgtSize.columns])
            view.image.pixels.withUnsafeBytes { digest.update($0) }
        }
        self.digest = digest.hexadecimal()
    }
}

extension FileDigest {
    fileprivate mutating func update(numbers: [Int]) {
        numbers.map { Int64($0).littleEndian }.withUnsafeBytes { update($0) }
    }
}

/// A prompt ready to run.
struct PreparedPrompt: Sendable {
    /// What each position holds.
    let keys: [CacheKey]
    /// The groups that fill the placeholders, in order.
    let groups: [PictureGroup]
    /// Placeholders of each group.
    let bounds: [Range<Int>]

    /// - Parameters:
    ///   - inputIds: token ids.
    ///   - bounds: ascending, inside the ids, one a group.
    init(inputIds: [Int], bounds: [Range<Int>], groups: [PictureGroup]) {
        var keys = inputIds.map(CacheKey.token)
        for (bound, group) in zip(bounds, groups) {
            for (row, position) in bound.enumerated() {
                keys[position] = .picture(digest: group.digest, row: row)
            }
        }
        self.keys = keys
        self.groups = groups
        self.bounds = bounds
    }

    /// Positions that hold pictures.
    var picturePositions: Int { bounds.reduce(0) { $0 + $1.count } }
}
