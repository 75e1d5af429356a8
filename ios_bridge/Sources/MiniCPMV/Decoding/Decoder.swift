/// The decoder of a bundle: embeddings and positions in, hidden states and logits out.
///
/// Owns the key/value cache of every package, in either form. It does not know what the tokens
/// mean.
struct Decoder {
    private let architecture: Architecture
    private let decoding: Decoding
    private let heads: [GraphSpec]
    private let engines: any EngineSource
    private let rotary: RotaryTables
    private var packages: [DecoderPackage]

    init(_ manifest: Manifest, engines: any EngineSource) throws {
        architecture = manifest.architecture
        decoding = manifest.decoding
        heads = manifest.graphs(of: .lmHead)
        self.engines = engines
        rotary = RotaryTables(
            headDim: architecture.headDim, theta: architecture.ropeTheta)
        packages = try manifest.graphs(of: .decoder).map { graph in
            try DecoderPackage(graph: graph, engine: engines.engine(for: graph))
        }
    }

    /// Rows of the next block: a prefill block, or one row where that would pass the cache's end
    /// or nothing is gained.
    func blockLength(remaining: Int, position: Int) -> Int {
        let fits = position + decoding.prefillLength <= decoding.contextLength
        return fits && remaining > 1 ? decoding.prefillLength : 1
    }

    /// Run any number of rows in blocks.
    ///
    /// - Parameters:
    ///   - count: number of rows, at least one.
    ///   - position: of the first row in the cache.
    ///   - rows: embeddings of a range of the rows, (range, hidden size); asked for block by block.
    ///   - checkpoint: called before each block; what it throws ends the run.
    ///   - progress: called after each block with the number of rows that the cache now holds.
    /// - Returns: the hidden state of the last row, (hidden size).
    mutating func run(
        count: Int, position: Int, rows: (Range<Int>) throws -> [Float],
        checkpoint: () throws -> Void = {}, progress: (Int) -> Void = { _ in }
    ) throws -> [Float] {
        guard count >= 1, position + count <= decoding.contextLength else {
            throw MiniCPMVError.contextFull(
                "\(count) tokens at position \(position) do not fit the context of "
                    + "\(decoding.contextLength); shorten the conversation.")
        }
        var hidden: [Float] = []
        var done = 0
        while done < count {
            try checkpoint()
            let length = blockLength(remaining: count - done, position: position + done)
            let end = min(done + length, count)
            hidden = try runBlock(
                try rows(done..<end), position: position + done, length: length)
            done = end
            progress(position + done)
        }
        return hidden
    }

    /// Run at most `length` rows; returns the hidden state of the last.
    private mutating func runBlock(
        _ rows: [Float], position: Int, length: Int
    ) throws -> [Float] {
        let (width, valid) = (architecture.hiddenSize, rows.count / architecture.hiddenSize)
        var inputs = blockInputs(rows, position: position, length: length)
        for index in packages.indices {
            inputs["hidden_states"] = try packages[index].run(
                length == 1 ? "decode" : "prefill", inputs, position: position, valid: valid,
                engine: engines.engine(for: packages[index].graph))
        }
        let hidden = inputs["hidden_states"]?.values ?? []
        return (0..<width).map { hidden[$0 * length + valid - 1] }
    }

    /// Inputs shared by all packages for `rows`, at most `length` of them, from `position` on.
    private func blockInputs(
        _ rows: [Float], position: Int, length: Int
    ) -> [String: Tensor] {
        let (width, context) = (architecture.hiddenSize, decoding.contextLength)
        let padding = [Float](repeating: 0, count: length * width - rows.count)
        let hidden = transposed(rows + padding, rows: length, columns: width)
        let tables = rotary.tables(position..<position + length)
        let table = [1, 1, architecture.headDim, length]
        let mask =
            switch decoding.kvCache {
            case .state:
                AttentionMask.state(position: position, length: length, context: context)
            case .io:
                AttentionMask.io(position: position, length: length, context: context)
            }
        return [
            "hidden_states": Tensor(shape: [1, width, 1, length], values: hidden),
            "cos": Tensor(shape: table, values: tables.cos),
            "sin": Tensor(shape: table, values: tables.sin),
            "attention_mask": Tensor(
                shape: [1, 1, length, mask.count / length], values: mask),
        ]
    }

    /// Logits of the hidden state of the last package, one a token; padding is removed.
    func logits(_ hidden: [Float]) throws -> [Float] {
        let input = Tensor(shape: [1, hidden.count, 1, 1], values: hidden)
        var slices: [String: Tensor] = [:]
        for head in heads {
            let outputs = try engines.engine(for: head).run(
                "main", ["hidden_states": input], state: nil)
            slices.merge(outputs) { $1 }
        }
        let joined = slices.sorted { $0.key < $1.key }.flatMap(\.value.values)
        guard joined.count >= architecture.vocabSize else {
            throw MiniCPMVError.modelFailure(
                "The head gave \(joined.count) logits for \(architecture.vocabSize) tokens; "
                    + "export the bundle again.")
        }
        return Array(joined[..<architecture.vocabSize])
    }
}
