/// Writes one answer: prompt, then token by token, until something ends it.
struct AnswerWriter {
    private let model: ChatModel
    private let options: ChatOptions
    private let answer: Answer
    private let limit: Int
    private let sampler: Sampler
    private let start = ContinuousClock.now

    /// - Throws: `MiniCPMVError.invalidOption` for a setting out of its range.
    init(_ model: ChatModel, _ options: ChatOptions, _ answer: Answer) throws {
        self.model = model
        self.options = options
        self.answer = answer
        let generation = model.manifest.generation
        limit = options.sampling.maxNewTokens ?? generation.maxNewTokens
        guard limit >= 1 else {
            throw MiniCPMVError.invalidOption(
                "max_new_tokens is \(limit); it must be at least 1.")
        }
        let thinks = options.prompt.enableThinking == true
        sampler = try options.sampling.sampler(
            thinks ? generation.thinking : generation.answer)
    }

    /// Throw `CancellationError` once the answer is not wanted any more.
    func checkpoint() throws {
        if answer.isCancelled { throw CancellationError() }
    }

    /// Answer `messages`.
    ///
    /// - Returns: why the answer ended, and its text.
    func write(
        _ messages: [CutMessage], _ runner: inout PromptRunner
    ) throws -> (reason: FinishReason, text: String) {
        let prompt = try PreparedPrompt(
            messages, encoder: model.encoder, options: options.prompt)
        try runner.check(prompt)
        var statistics = Statistics()
        defer {
            statistics.peakMemoryBytes = MemoryBudget.peakOfProcess()
            answer.set(statistics)
        }
        let logits = try runner.prefill(
            prompt, statistics: &statistics, checkpoint: checkpoint)
        answer.set(statistics)
        return try write(after: logits, &runner, &statistics)
    }

    private func write(
        after logits: [Float], _ runner: inout PromptRunner, _ statistics: inout Statistics
    ) throws -> (FinishReason, String) {
        var (logits, sampler, tokens) = (logits, sampler, [Int]())
        // As published: only the terminators are hidden, <box> and its like belong to the answer.
        var decoder = StreamDecoder(model.tokenizer, skippingSpecial: false)
        var text = ""
        func show(_ piece: String) {
            text += piece
            answer.yield(piece)
        }
        show(opening)
        let begin = ContinuousClock.now
        var reason: FinishReason?
        while reason == nil {
            let token = try sampler.nextToken(logits, generated: tokens)
            if tokens.isEmpty { statistics.secondsToFirstToken = seconds(since: start) }
            reason = finishReason(token, count: tokens.count, position: runner.position)
            if reason == .stop || reason == .cancelled { break }
            tokens.append(token)
            answer.append(token)
            show(decoder.push(token))
            if reason == nil { logits = try runner.decode(token) }
            statistics.newTokens = tokens.count
            statistics.decodeSeconds = seconds(since: begin)
            answer.set(statistics)
        }
        show(decoder.flush())
        return (reason ?? .stop, text)
    }

    /// What the prompt already began of the answer.
    private var opening: String {
        guard options.prompt.enableThinking == true else { return "" }
        let tokens = model.manifest.prompt.specialTokens
        return (tokens[ControlToken.thinkStart.rawValue]?.content ?? "") + "\n"
    }

    private func finishReason(_ token: Int, count: Int, position: Int) -> FinishReason? {
        let manifest = model.manifest
        if answer.isCancelled { return .cancelled }
        if manifest.prompt.stopTokenIds.contains(token) { return .stop }
        if count + 1 >= limit { return .length }
        return position >= manifest.decoding.contextLength ? .contextFull : nil
    }

    private func seconds(since start: ContinuousClock.Instant) -> Double {
        start.duration(to: .now) / .seconds(1)
    }
}
