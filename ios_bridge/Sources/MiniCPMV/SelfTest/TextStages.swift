/// The decoder and its head on the golden prompts, pictures already embedded.
struct TextStages {
    private let model: ChatModel
    private let golden: GoldenVectors
    private let engines: any EngineSource
    /// Filled by `logits`.
    private(set) var agreement = SelfTest.Outcome(note: "The decoder did not run.")

    init(model: ChatModel, golden: GoldenVectors, engines: any EngineSource) {
        self.model = model
        self.golden = golden
        self.engines = engines
    }

    /// Logits after each prompt; then the golden tokens, one by one.
    mutating func logits(_ checkpoint: () throws -> Void) throws -> SelfTest.Outcome {
        let embedding = try TokenEmbedding(model.manifest.embedTokens, locate: model.locate)
        let clock = ContinuousClock()
        var (outcome, right, steps, seconds) = (SelfTest.Outcome(), 0, 0, 0.0)
        var spent = 0.0
        for chat in golden.chats {
            var decoder = try Decoder(model.manifest, engines: engines)
            let rows = try embeddings(chat, embedding)
            let width = embedding.width
            var start = clock.now
            let hidden = try decoder.run(
                count: chat.inputIds.count, position: 0,
                rows: { Array(rows[$0.lowerBound * width..<$0.upperBound * width]) },
                checkpoint: checkpoint)
            var logits = try decoder.logits(hidden)
            spent += start.duration(to: clock.now) / .seconds(1)
            let wanted = try golden.tensor(chat, "logits")
            outcome.decibels.append(SignalToNoise.decibels(logits, wanted.values))
            outcome.count += 1
            start = clock.now
            for (step, token) in chat.greedyTokens.enumerated() {
                try checkpoint()
                right += SignalToNoise.largest(logits[...]) == token ? 1 : 0
                steps += 1
                let position = chat.inputIds.count + step
                if position >= model.manifest.decoding.contextLength { break }
                let row = try embedding.rows([token])
                let next = try decoder.run(count: 1, position: position, rows: { _ in row })
                logits = try decoder.logits(next)
            }
            seconds += start.duration(to: clock.now) / .seconds(1)
        }
        agreement = SelfTest.Outcome(
            agreement: steps > 0 ? Double(right) / Double(steps) : nil, count: steps,
            seconds: seconds)
        outcome.seconds = spent
        return outcome
    }

    /// (positions, hidden size), the golden embeddings in the placeholders' places.
    private func embeddings(
        _ chat: GoldenVectors.Chat, _ embedding: TokenEmbedding
    ) throws -> [Float] {
        var rows = try embedding.rows(chat.inputIds)
        for (group, bound) in chat.bounds.enumerated() {
            let embeds = try golden.tensor(chat, "image_embeds.\(group)").values
            guard embeds.count == bound.count * embedding.width else {
                throw MiniCPMVError.damagedFile(
                    "The golden chat \(chat.name) has \(embeds.count) values for "
                        + "\(bound.count) placeholders; write the golden vectors again.")
            }
            let start = bound.lowerBound * embedding.width
            rows.replaceSubrange(start..<start + embeds.count, with: embeds)
        }
        return rows
    }
}
