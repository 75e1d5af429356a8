import Foundation
import Synchronization

@testable import MiniCPMV

/// A model of a few numbers whose packages are arithmetic: what a position gives depends on every
/// position before it, on the mask, and on where it was written in the cache.
struct ToyModel {
    static let width = 4
    static let context = 96
    static let prefill = 16
    static let patches = 24

    let manifest: Manifest
    let engines: ToyEngines
    let folder: URL
    let tokenizer: Tokenizer

    init(kvCache: KeyValueCacheKind = .state, packages: Int = 2) throws {
        tokenizer = try Tokenizer(contentsOf: Repository.url("export/pocket/tokenizer.json"))
        folder = FileManager.default.temporaryDirectory
            .appendingPathComponent("toy-\(UUID().uuidString)")
        manifest = try Self.manifest(kvCache, packages: packages, tokenizer: tokenizer)
        engines = ToyEngines()
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        for file in manifest.hostTables.files {
            let count = file.shape.reduce(1, *)
            let values = (0..<count).map { Float(sin(Double($0) * 1.7)) }
            let data = values.withUnsafeBytes { Data($0) }
            try data.write(to: folder.appendingPathComponent(file.path))
        }
    }

    func chat() throws -> ChatSession {
        let folder = folder
        return try ChatModel(
            manifest: manifest, tokenizer: tokenizer, engines: engines,
            locate: { folder.appendingPathComponent($0) }
        ).chat()
    }

    func decoder() throws -> Decoder {
        try Decoder(manifest, engines: engines)
    }

    private static func manifest(
        _ kvCache: KeyValueCacheKind, packages: Int, tokenizer: Tokenizer
    ) throws -> Manifest {
        let defaults = SamplingDefaults(temperature: 0, topK: 0, topP: 1, repetitionPenalty: 1)
        return Manifest(
            schemaVersion: 3, format: "coreml", model: "toy",
            architecture: Architecture(
                hiddenSize: width, numLayers: packages, numAttentionHeads: 1,
                numKeyValueHeads: 1, headDim: width, ropeTheta: 10_000,
                vocabSize: tokenizer.vocabSize, visionHiddenSize: width, resamplerHeads: 1,
                numQueries: 3),
            preprocessing: Preprocessing(
                scaleResolution: 56, patchSize: 14, maxSliceNums: 1, sliceMode: true,
                useImageId: true, normMean: [0.5, 0.5, 0.5], normStd: [0.5, 0.5, 0.5],
                numQueries: 3, positionBuckets: 4, maxPatches: patches),
            prompt: try prompt(tokenizer),
            generation: Generation(answer: defaults, thinking: defaults, maxNewTokens: 8),
            decoding: Decoding(
                contextLength: context, prefillLength: prefill, kvCache: kvCache),
            graphs: graphs(kvCache, packages: packages),
            hostTables: HostTables(
                embedTokens: EmbeddingTable(
                    table: TensorFile(
                        path: "embed", shape: [tokenizer.vocabSize, width], dtype: "float32"),
                    scales: nil),
                positionEmbeddings: TensorFile(
                    path: "positions", shape: [16, width], dtype: "float32"),
                resamplerKeyQuery: TensorFile(path: "query", shape: [3, width], dtype: "float32")),
            recipe: .null, source: Source(name: "", sha256: "", license: ""), tools: [:],
            files: [])
    }

    private static func prompt(_ tokenizer: Tokenizer) throws -> Prompt {
        let contents: [ControlToken: String] = [
            .messageStart: "<|im_start|>", .messageEnd: "<|im_end|>", .thinkStart: "<think>",
            .thinkEnd: "</think>", .imageStart: "<image>", .imageEnd: "</image>",
            .sliceStart: "<slice>", .sliceEnd: "</slice>", .imageIdStart: "<image_id>",
            .imageIdEnd: "</image_id>", .imagePlaceholder: "<unk>",
        ]
        let tokens = try contents.map { control, content in
            (control.rawValue, SpecialToken(content: content, id: try tokenizer.tokenId(content)))
        }
        return Prompt(
            specialTokens: Dictionary(uniqueKeysWithValues: tokens), stopTokenIds: [],
            chatTemplate: "")
    }

    private static func graphs(_ kvCache: KeyValueCacheKind, packages: Int) -> [GraphSpec] {
        let cache = TensorSpec(
            name: "key_value_cache", shape: [2, 1, context, width], dtype: "float32")
        let isState = kvCache == .state
        let decoders = (0..<packages).map { number in
            graph(
                "decoder_\(number)", .decoder, inputs: isState ? [] : [cache],
                states: isState ? [cache] : [])
        }
        return [graph("vision", .visionEncoder), graph("resampler", .resampler)] + decoders
            + [graph("head", .lmHead)]
    }

    private static func graph(
        _ name: String, _ role: GraphRole, inputs: [TensorSpec] = [], states: [TensorSpec] = []
    ) -> GraphSpec {
        GraphSpec(
            name: name, role: role, path: name,
            functions: [FunctionSpec(name: "main", inputs: inputs, outputs: [])],
            states: states, blocks: 0..<1, parameters: 0, weightBytes: 0)
    }
}

/// Opens the packages, and keeps a list of the calls.
final class ToyEngines: EngineSource {
    private let record = Mutex<[String]>([])
    private let hook = Mutex<(@Sendable (String) -> Void)?>(nil)

    /// "graph function" of each call so far; the decoder's with its position.
    var calls: [String] { record.withLock { $0 } }

    /// Runs before each call, with what `calls` gets.
    func beforeEachCall(_ action: @escaping @Sendable (String) -> Void) {
        hook.withLock { $0 = action }
    }

    func forget() {
        record.withLock { $0 = [] }
    }

    func engine(for graph: GraphSpec) -> any Engine {
        ToyEngine(graph: graph) { [self] call in
            record.withLock { $0.append(call) }
            hook.withLock { $0 }?(call)
        }
    }
}

/// Hands an answer to a hook that runs while it is written, perhaps before the test has it.
final class AnswerSlot: Sendable {
    private let slot = Mutex<Answer?>(nil)

    func put(_ answer: Answer) -> Answer {
        slot.withLock { $0 = answer }
        return answer
    }

    /// The answer, waited for.
    var answer: Answer {
        while true {
            if let answer = slot.withLock({ $0 }) { return answer }
            Thread.sleep(forTimeInterval: 0.001)
        }
    }
}

private final class ToyState: EngineState {
    var rows = [[Float]](
        repeating: [Float](repeating: 0, count: ToyModel.width), count: ToyModel.context)
}

private struct ToyEngine: Engine {
    let graph: GraphSpec
    let report: @Sendable (String) -> Void

    func makeState() -> any EngineState { ToyState() }

    func run(
        _ function: String, _ inputs: [String: Tensor], state: (any EngineState)?
    ) throws -> [String: Tensor] {
        let position = inputs["position"]?.values.first.map { " \(Int($0))" } ?? ""
        report("\(graph.name) \(function)\(position)")
        switch graph.role {
        case .visionEncoder: return ["image_features": features(inputs)]
        case .resampler: return ["image_embeds": embeds(inputs)]
        case .decoder: return decoded(inputs, state as? ToyState)
        case .lmHead: return ["logits_00": logits(inputs)]
        case .embedTokens: return [:]
        }
    }

    private func features(_ inputs: [String: Tensor]) -> Tensor {
        var features = inputs["position_embeddings"] ?? Tensor(zeros: [0])
        let patches = inputs["patches"]?.values ?? []
        for index in features.values.indices { features.values[index] += patches[index] }
        return features
    }

    /// Means of the features, weighted by the softmax of the score bias.
    private func embeds(_ inputs: [String: Tensor]) -> Tensor {
        let (features, bias) = (
            inputs["image_features"]?.values ?? [], inputs["score_bias"]?.values ?? []
        )
        let (queries, columns) = (3, features.count / ToyModel.width)
        var embeds = Tensor(zeros: [1, ToyModel.width, 1, queries])
        for query in 0..<queries {
            let weights = bias[query * columns..<(query + 1) * columns].map { exp($0) }
            let total = weights.reduce(0, +)
            for channel in 0..<ToyModel.width {
                let sum = zip(weights, features[(channel * columns)...]).map(*).reduce(0, +)
                embeds.values[channel * queries + query] = sum / total
            }
        }
        return embeds
    }

    /// Each row becomes the half of itself, turned, plus what the mask lets it see of the cache.
    private func decoded(_ inputs: [String: Tensor], _ state: ToyState?) -> [String: Tensor] {
        var hidden = inputs["hidden_states"] ?? Tensor(zeros: [1, 0, 1, 1])
        let (width, length) = (ToyModel.width, hidden.shape[3])
        let new = (0..<length).map { row in (0..<width).map { hidden.values[$0 * length + row] } }
        var rows: [[Float]]
        if let state {
            let position = Int(inputs["position"]?.values[0] ?? 0)
            state.rows.replaceSubrange(position..<position + length, with: new)
            rows = state.rows
        } else {
            let cache = inputs["key_value_cache"]?.values ?? []
            rows = (0..<ToyModel.context).map { Array(cache[$0 * width..<($0 + 1) * width]) }
            rows += new
        }
        let mask = inputs["attention_mask"]?.values ?? []
        let cosines = inputs["cos"]?.values ?? []
        for row in 0..<length {
            for channel in 0..<width {
                let seen = rows.indices.reduce(Float(0)) { sum, key in
                    sum + (mask[row * rows.count + key] == 0 ? rows[key][channel] : 0)
                }
                let turn = cosines[channel * length + row]
                hidden.values[channel * length + row] = (new[row][channel] * turn + seen) / 8
            }
        }
        guard state == nil else { return ["output_hidden_states": hidden] }
        let added = Tensor(shape: [1, 1, length, width], values: new.flatMap { $0 })
        let both = Tensor(shape: [2, 1, length, width], values: added.values + added.values)
        return ["output_hidden_states": hidden, "new_key_value_rows": both]
    }

    private func logits(_ inputs: [String: Tensor]) -> Tensor {
        let hidden = inputs["hidden_states"]?.values ?? []
        let scores = (0..<512).map { token in
            hidden.enumerated().reduce(Float(0)) { sum, item in
                sum + item.element * sin(Float(token * (item.offset + 2)))
            }
        }
        return Tensor(shape: [1, 512, 1, 1], values: scores)
    }
}
