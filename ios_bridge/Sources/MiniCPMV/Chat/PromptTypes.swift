/// How one picture or video was cut: a slice grid, or none, a frame, a picture being one frame.
public struct MediaLayout: Equatable, Sendable {
    public let grids: [Grid?]
    /// Packs a video's frames into groups; without it every frame stands alone.
    public let temporalIds: [[Int]]?

    public init(grids: [Grid?], temporalIds: [[Int]]? = nil) {
        self.grids = grids
        self.temporalIds = temporalIds
    }
}

/// Options of a prompt.
public struct PromptOptions: Equatable, Sendable {
    /// Whether the model thinks first; nil lets it choose.
    public var enableThinking: Bool?
    /// Whether pictures are numbered; nil means as the bundle says, but not in a conversation with
    /// a video.
    public var useImageId: Bool?
    /// Groups all frames of the conversation, in order, in place of the layouts' own groups.
    public var temporalIds: [[Int]]?

    public init(
        enableThinking: Bool? = false, useImageId: Bool? = nil, temporalIds: [[Int]]? = nil
    ) {
        self.enableThinking = enableThinking
        self.useImageId = useImageId
        self.temporalIds = temporalIds
    }
}

/// What fills one row of `imageBound`: view number `view` of each of the frames `frames`, counted
/// over the conversation; the resampler packs them with these temporal ids.
public struct ViewGroup: Equatable, Sendable {
    public let frames: Range<Int>
    public let view: Int
    public let temporalIds: [Int]
}

/// Token ids, the ranges of the placeholders, the groups that fill them, and the prompt as text,
/// for display only.
public struct EncodedPrompt: Equatable, Sendable {
    public let inputIds: [Int]
    public let imageBound: [Range<Int>]
    public let groups: [ViewGroup]
    public let text: String
}

/// A special token, by its role in the manifest.
enum ControlToken: String, CaseIterable {
    case messageStart = "message_start"
    case messageEnd = "message_end"
    case thinkStart = "think_start"
    case thinkEnd = "think_end"
    case imageStart = "image_start"
    case imageEnd = "image_end"
    case sliceStart = "slice_start"
    case sliceEnd = "slice_end"
    case imageIdStart = "image_id_start"
    case imageIdEnd = "image_id_end"
    case imagePlaceholder = "image_placeholder"
}

/// A piece of a prompt under construction.
enum PromptItem: Equatable {
    case text(String)
    case control(ControlToken)
    /// The place of a frame.
    case slot(Int)
}
