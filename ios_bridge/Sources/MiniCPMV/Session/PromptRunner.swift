/// Runs prompts and tokens through a bundle's graphs, and remembers what the cache holds.
///
/// Whatever a new prompt shares with the last one, token by token and picture by picture, is not
/// computed again. It knows no text.
struct PromptRunner {
    private let manifest: Manifest
    private let engines: any EngineSource
    private let embedding: TokenEmbedding
    private var vision: VisionPipeline
    private var decoder: Decoder
    private var cached: [CacheKey] = []
    private var imageEmbeds: [String: [Float]] = [:]  // (queries, D) of each group, by digest

    init(_ model: ChatModel) throws {
        manifest = model.manifest
        engines = model.engines
        embedding = try TokenEmbedding(manifest.embedTokens, locate: model.locate)
        vision = try VisionPipeline(manifest, engines: engines, locate: model.locate)
        decoder = try Decoder(manifest, engines: engines)
    }

    /// Positions that the cache holds.
    var position: Int { cached.count }

    /// Forget the conversation.
    mutating func reset() throws {
        decoder = try Decoder(manifest, engines: engines)
        cached = []
        imageEmbeds = [:]
    }

    /// Refuse a prompt that leaves no room for an answer.
    ///
    /// - Throws: `MiniCPMVError.contextFull`.
    func check(_ prompt: PreparedPrompt) throws {
        let context = manifest.decoding.contextLength
        guard prompt.keys.count < context else {
            throw MiniCPMVError.contextFull(
                "the prompt has \(prompt.keys.count) tokens, \(prompt.picturePositions) of them "
                    + "for pictures, and the context holds \(context) with the answer; shorten "
                    + "it, lower max_slice_nums, or export with a larger --context-length.")
        }
    }

    /// Run the prompt, reusing the cache.
    ///
    /// - Parameter checkpoint: called before each view and each block; what it throws ends the
    ///   run, and what was computed stays in the cache.
    /// - Returns: logits of the last position.
    mutating func prefill(
        _ prompt: PreparedPrompt, statistics: inout Statistics,
        checkpoint: () throws -> Void = {}
    ) throws -> [Float] {
        let start = sharedLength(prompt.keys)
        statistics.promptTokens = prompt.keys.count
        statistics.reusedTokens = start
        let clock = ContinuousClock()
        var begin = clock.now
        try encodePictures(prompt, from: start, checkpoint: checkpoint)
        statistics.visionSeconds = begin.duration(to: clock.now) / .seconds(1)
        begin = clock.now
        // Rows past `start` are overwritten from here on: forget them before, not after.
        cached = Array(prompt.keys[..<start])
        let logits = try decoder.logits(
            try run(prompt.keys[start...], checkpoint: checkpoint))
        statistics.prefillSeconds = begin.duration(to: clock.now) / .seconds(1)
        return logits
    }

    /// Append one token to the cache; logits of the next.
    mutating func decode(_ token: Int) throws -> [Float] {
        try decoder.logits(try run([.token(token)], checkpoint: {}))
    }

    /// Positions that the cache already holds; the last one is always run for its logits.
    private func sharedLength(_ keys: [CacheKey]) -> Int {
        zip(cached, keys.dropLast()).prefix { $0 == $1 }.count
    }

    /// Append `keys` to the cache; the hidden state of the last.
    private mutating func run(
        _ keys: ArraySlice<CacheKey>, checkpoint: () throws -> Void
    ) throws -> [Float] {
        let rows = PromptRows(keys: Array(keys), embedding: embedding, imageEmbeds: imageEmbeds)
        let start = cached.count
        var done = start
        defer { cached += keys.prefix(done - start) }
        return try decoder.run(
            count: keys.count, position: start, rows: rows.embeddings, checkpoint: checkpoint,
            progress: { done = $0 })
    }

    /// Embeddings of the groups that end after position `start`, computed once a picture.
    private mutating func encodePictures(
        _ prompt: PreparedPrompt, from start: Int, checkpoint: () throws -> Void
    ) throws {
        let shown = Set(prompt.groups.map(\.digest))
        imageEmbeds = imageEmbeds.filter { shown.contains($0.key) }
        for (bound, group) in zip(prompt.bounds, prompt.groups)
        where bound.upperBound > start && imageEmbeds[group.digest] == nil {
            imageEmbeds[group.digest] = try vision.encode(
                group.views, temporalIds: group.temporalIds, checkpoint: checkpoint)
        }
    }
}

/// Embeddings of a prompt's positions, made when a block needs them.
private struct PromptRows {
    let keys: [CacheKey]
    let embedding: TokenEmbedding
    let imageEmbeds: [String: [Float]]

    /// (positions, hidden size) of a range of the keys.
    func embeddings(_ range: Range<Int>) throws -> [Float] {
        let width = embedding.width
        var rows: [Float] = []
        rows.reserveCapacity(range.count * width)
        for key in keys[range] {
            switch key {
            case .token(let id):
                rows += try embedding.rows([id])
            case .picture(let digest, let row):
                guard let embeds = imageEmbeds[digest], (row + 1) * width <= embeds.count else {
                    throw MiniCPMVError.modelFailure(
                        "A picture has fewer embeddings than places in the prompt; "
                            + "export the bundle again.")
                }
                rows += embeds[row * width..<(row + 1) * width]
            }
        }
        return rows
    }
}
