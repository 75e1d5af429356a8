/// A picture, or the frames of a video, cut into views: a small part of the picture's memory.
struct CutMedia: Sendable {
    /// Views of each frame.
    let views: [[View]]
    let layout: MediaLayout

    private static let videoSlices = 1  // the published setting: a frame is one view

    init(_ image: RGBImage, _ processor: ImagePreprocessor, maxSliceNums: Int?) throws {
        try self.init([image], nil, processor, maxSliceNums)
    }

    init(_ video: VideoFrames, _ processor: ImagePreprocessor, maxSliceNums: Int?) throws {
        try self.init(
            video.frames, video.temporalIds, processor, maxSliceNums ?? Self.videoSlices)
    }

    private init(
        _ images: [RGBImage], _ temporalIds: [[Int]]?, _ processor: ImagePreprocessor,
        _ maxSliceNums: Int?
    ) throws {
        views = try images.map { try processor.views(of: $0, maxSliceNums: maxSliceNums) }
        let grids = try images.map { image in
            try SlicePlan(
                size: PixelSize(width: image.width, height: image.height),
                preprocessing: processor.config, maxSliceNums: maxSliceNums
            ).grid
        }
        layout = MediaLayout(grids: grids, temporalIds: temporalIds)
        for view in views.joined() { try processor.check(view) }
    }
}

/// A message whose pictures are cut.
struct CutMessage: Sendable {
    let turn: ChatTurn
    let media: [CutMedia]

    init(
        _ message: ChatMessage, _ processor: ImagePreprocessor, maxSliceNums: Int?,
        checkpoint: () throws -> Void = {}
    ) throws {
        var parts: [ChatTurn.Part] = []
        var media: [CutMedia] = []
        for part in message.parts {
            try checkpoint()
            switch part {
            case .text(let text):
                parts.append(.text(text))
            case .image(let image):
                parts.append(.media(.image))
                media.append(try CutMedia(image, processor, maxSliceNums: maxSliceNums))
            case .video(let video):
                parts.append(.media(.video))
                media.append(try CutMedia(video, processor, maxSliceNums: maxSliceNums))
            }
        }
        turn = ChatTurn(message.role, parts, reasoning: message.reasoning)
        self.media = media
    }
}

extension PreparedPrompt {
    /// Encode a conversation and put its views in groups.
    ///
    /// - Throws: `MiniCPMVError.invalidMessage` or `invalidOption`.
    init(_ messages: [CutMessage], encoder: PromptEncoder, options: PromptOptions) throws {
        let media = messages.flatMap(\.media)
        let encoded = try encoder.encode(
            messages.map(\.turn), media: media.map(\.layout), options: options)
        let frames = media.flatMap(\.views)
        let groups = encoded.groups.map { group in
            PictureGroup(
                views: group.frames.map { frames[$0][group.view] },
                temporalIds: group.temporalIds)
        }
        self.init(inputIds: encoded.inputIds, bounds: encoded.imageBound, groups: groups)
    }
}
