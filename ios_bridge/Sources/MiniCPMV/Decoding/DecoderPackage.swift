/// One package of the decoder with its key/value cache.
struct DecoderPackage {
    static let cacheName = "key_value_cache"

    let graph: GraphSpec
    private var cache: Cache

    private enum Cache {
        case state(any EngineState)
        case outside(Tensor)  // (rows, kv heads, context, head dim)
    }

    init(graph: GraphSpec, engine: any Engine) throws {
        self.graph = graph
        if graph.states.isEmpty {
            let inputs = graph.functions.first?.inputs ?? []
            guard let spec = inputs.first(where: { $0.name == Self.cacheName }),
                spec.shape.count == 4
            else {
                throw MiniCPMVError.invalidManifest(
                    "\(graph.name) has neither a state nor the input \(Self.cacheName); "
                        + "export the bundle again.")
            }
            cache = .outside(Tensor(zeros: spec.shape))
        } else {
            cache = .state(try engine.makeState())
        }
    }

    /// Run one block of which `valid` rows count; returns its hidden states, (1, D, 1, length).
    mutating func run(
        _ function: String, _ inputs: [String: Tensor], position: Int, valid: Int,
        engine: any Engine
    ) throws -> Tensor {
        var inputs = inputs
        guard let shape = inputs["hidden_states"]?.shape else {
            throw MiniCPMVError.modelFailure("A block came without hidden states.")
        }
        let outputs: [String: Tensor]
        switch cache {
        case .state(let state):
            inputs["position"] = Tensor(shape: [1], values: [Float(position)])
            outputs = try engine.run(function, inputs, state: state)
        case .outside(let rows):
            inputs[Self.cacheName] = rows
            outputs = try engine.run(function, inputs, state: nil)
            inputs[Self.cacheName] = nil
            let added = try outputs.output(
                "new_key_value_rows",
                shape: [rows.shape[0], rows.shape[1], shape[3], rows.shape[3]])
            write(added, at: position, count: valid)
        }
        return try outputs.output("output_hidden_states", shape: shape)
    }

    /// Copy the first `count` rows of each head into the outside cache from row `position` on.
    private mutating func write(_ added: Tensor, at position: Int, count: Int) {
        guard case .outside(var rows) = cache else { return }
        cache = .outside(Tensor(shape: [0], values: []))  // so that `rows` is changed in place
        let (context, width, length) = (rows.shape[2], rows.shape[3], added.shape[2])
        for head in 0..<rows.shape[0] * rows.shape[1] {
            let from = head * length * width
            let to = (head * context + position) * width
            rows.values.replaceSubrange(
                to..<to + count * width, with: added.values[from..<from + count * width])
        }
        cache = .outside(rows)
    }
}
