/// How one picture or video was cut: a slice grid, or none, a frame, a picture being one frame.
public struct MediaLayout: Equatable, Sendable {
    /// A grid a frame; nil for a frame with the overview as its only view.
    public let grids: [Grid?]
    /// Packs a video's frames into groups; without it every frame stands alone.
    public let temporalIds: [[Int]]?

    /// A layout of frames, in order.
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

    /// The published defaults, or others.
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
    /// Numbers of the frames.
    public let frames: Range<Int>
    /// 0 for the overview, then the slices, row by row.
    public let view: Int
    /// A time a frame, in tenths of a second; −1 for no time.
    public let temporalIds: [Int]
}

/// Token ids, the ranges of the placeholders, the groups that fill them, and the prompt as text,
/// for display only.
public struct EncodedPrompt: Equatable, Sendable {
    /// The prompt, with placeholders where embeddings go.
    public let inputIds: [Int]
    /// Places of the placeholders, a range a group.
    public let imageBound: [Range<Int>]
    /// What fills each range of `imageBound`.
    public let groups: [ViewGroup]
    /// The prompt as text.
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
