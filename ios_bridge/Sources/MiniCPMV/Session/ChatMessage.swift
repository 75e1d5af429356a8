/// The frames of a video, upright, and how the resampler packs them.
public struct VideoFrames: Sendable, Equatable {
    /// Pictures in order.
    public let frames: [RGBImage]
    /// Groups of the frames' times in units of 0.1 s, as `FramePlan` makes them.
    public let temporalIds: [[Int]]

    /// Frames with their times; without times they are packed by their number.
    ///
    /// - Throws: `MiniCPMVError.invalidVideo` without frames, or for more than can be packed
    ///   where no `temporalIds` are given.
    public init(_ frames: [RGBImage], temporalIds: [[Int]]? = nil) throws {
        guard !frames.isEmpty else { throw MiniCPMVError.noFrames }
        self.frames = frames
        self.temporalIds = try temporalIds ?? FramePlan.groupsOfFrames(count: frames.count)
    }
}

/// One message of a conversation, with its pictures.
public struct ChatMessage: Sendable, Equatable {
    /// A piece of a message.
    public enum Part: Sendable, Equatable {
        case text(String)
        case image(RGBImage)
        case video(VideoFrames)
    }

    /// Who says it.
    public let role: ChatRole
    /// Text and pictures in order.
    public let parts: [Part]
    /// Thoughts that came apart from the text.
    public let reasoning: String?

    /// A message of any parts; only the user's may hold pictures.
    public init(_ role: ChatRole, _ parts: [Part], reasoning: String? = nil) {
        self.role = role
        self.parts = parts
        self.reasoning = reasoning
    }

    /// A message of text alone.
    public init(_ role: ChatRole, _ text: String) {
        self.init(role, [.text(text)])
    }
}

/// Options of one answer.
public struct ChatOptions: Sendable {
    /// The chat format: thinking, numbering of pictures.
    public var prompt: PromptOptions
    /// How tokens are chosen, and how many at most.
    public var sampling: SamplingOptions
    /// Slices a picture at most; nil takes the published 9, and 1 for the frames of a video.
    public var maxSliceNums: Int?

    /// The bundle's defaults, unless given.
    public init(
        prompt: PromptOptions = PromptOptions(), sampling: SamplingOptions = SamplingOptions(),
        maxSliceNums: Int? = nil
    ) {
        self.prompt = prompt
        self.sampling = sampling
        self.maxSliceNums = maxSliceNums
    }
}
