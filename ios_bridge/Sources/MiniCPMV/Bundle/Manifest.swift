/// Everything a reader of a bundle needs to know; `manifest.json` holds exactly these fields.
public struct Manifest: Equatable, Sendable {
    /// The schema that this package reads.
    public static let schemaVersion = 3
    /// The manifest's file in a bundle.
    public static let fileName = "manifest.json"

    /// The schema of this manifest.
    public let schemaVersion: Int
    /// The packages' format: `coreml` or `onnx`.
    public let format: String
    /// The model's release.
    public let model: String
    /// Sizes of the model.
    public let architecture: Architecture
    /// Constants of the image processor.
    public let preprocessing: Preprocessing
    /// The chat format.
    public let prompt: Prompt
    /// Decoding defaults.
    public let generation: Generation
    /// How the decoder is driven.
    public let decoding: Decoding
    /// The packages; those of one role in the order in which they run.
    public let graphs: [GraphSpec]
    /// Tables that the host looks up; an ONNX bundle has graphs for it and none of them.
    let hostTables: HostTables
    /// How the weights are stored; for display.
    public let recipe: JSONValue
    /// Where the weights come from.
    public let source: Source
    /// Versions of the programs that wrote the bundle, by name.
    public let tools: [String: String]
    /// Every file of the bundle but the manifest.
    public let files: [FileEntry]

    /// The packages with `role`, in the order in which they run.
    public func graphs(of role: GraphRole) -> [GraphSpec] {
        graphs.filter { $0.role == role }
    }
}

/// Name, shape and element type (`float16`, `int32`, …) of one tensor; −1 for what varies.
public struct TensorSpec: Equatable, Sendable {
    /// Name of the input, output or state.
    public let name: String
    /// Lengths of the axes.
    public let shape: [Int]
    /// Type of the elements.
    public let dtype: String
}

/// One callable function of a package.
public struct FunctionSpec: Equatable, Sendable {
    /// Name in the package.
    public let name: String
    /// What it takes.
    public let inputs: [TensorSpec]
    /// What it gives.
    public let outputs: [TensorSpec]
}

/// What a package does.
public enum GraphRole: String, CaseIterable, Sendable {
    case visionEncoder = "vision_encoder"
    case resampler
    case embedTokens = "embed_tokens"
    case decoder
    case lmHead = "lm_head"
}

/// One package of the bundle. Functions of one package share its weights and its states.
public struct GraphSpec: Equatable, Sendable {
    /// Name of the package.
    public let name: String
    /// What the package does.
    public let role: GraphRole
    /// The package, relative to the bundle.
    public let path: String
    /// What can be called.
    public let functions: [FunctionSpec]
    /// Tensors that last from call to call.
    public let states: [TensorSpec]
    /// The layers, or head slices, that it holds.
    public let blocks: Range<Int>
    /// Number of weights.
    public let parameters: Int
    /// Bytes of the weights as they are stored.
    public let weightBytes: Int

    /// The function called `name`.
    ///
    /// - Throws: `MiniCPMVError.invalidManifest`, which lists what there is instead.
    public func function(_ name: String) throws -> FunctionSpec {
        if let function = functions.first(where: { $0.name == name }) { return function }
        let names = functions.map(\.name).joined(separator: ", ")
        throw MiniCPMVError.invalidManifest(
            "\(self.name) has no function '\(name)'; it has \(names).")
    }
}

/// A raw little-endian C-order array, to be mapped into memory.
public struct TensorFile: Equatable, Sendable {
    /// The file, relative to the bundle.
    public let path: String
    /// Lengths of the axes, the last one contiguous.
    public let shape: [Int]
    /// `int8`, `float16` or `float32`.
    public let dtype: String
}

/// Token embeddings: `table[id] * scales[id]`; without scales the table holds them directly.
public struct EmbeddingTable: Equatable, Sendable {
    /// (vocabulary, hidden size).
    public let table: TensorFile
    /// (vocabulary).
    public let scales: TensorFile?
}

/// The tables of a bundle as the manifest has them.
struct HostTables: Equatable, Sendable {
    let embedTokens: EmbeddingTable?
    let positionEmbeddings: TensorFile?
    let resamplerKeyQuery: TensorFile?

    /// All raw arrays.
    var files: [TensorFile] {
        [embedTokens?.table, embedTokens?.scales, positionEmbeddings, resamplerKeyQuery]
            .compactMap { $0 }
    }
}

extension Manifest {
    /// Token embeddings.
    ///
    /// - Throws: `MiniCPMVError.invalidManifest` when the bundle has no such table.
    public var embedTokens: EmbeddingTable {
        get throws { try required(hostTables.embedTokens, "embed_tokens") }
    }

    /// The vision tower's position embeddings: one row a position id.
    ///
    /// - Throws: `MiniCPMVError.invalidManifest` when the bundle has no such table.
    public var positionEmbeddings: TensorFile {
        get throws { try required(hostTables.positionEmbeddings, "position_embeddings") }
    }

    /// (heads · queries, D): times a key gives its scores.
    ///
    /// - Throws: `MiniCPMVError.invalidManifest` when the bundle has no such table.
    public var resamplerKeyQuery: TensorFile {
        get throws { try required(hostTables.resamplerKeyQuery, "resampler_key_query") }
    }

    private func required<Table>(_ table: Table?, _ name: String) throws -> Table {
        if let table { return table }
        throw MiniCPMVError.invalidManifest(
            "The bundle has no \(name) and its format is \(format); "
                + "export one with `python -m export coreml`.")
    }
}

/// Sizes of the model that the host needs besides the graphs' own shapes.
public struct Architecture: Equatable, Sendable {
    /// Width D of the language model.
    public let hiddenSize: Int
    /// Layers of the language model.
    public let numLayers: Int
    /// Query heads of a layer.
    public let numAttentionHeads: Int
    /// Key and value heads of a layer.
    public let numKeyValueHeads: Int
    /// Width of a head.
    public let headDim: Int
    /// Base of the rotary frequencies.
    public let ropeTheta: Double
    /// Rows of the embedding table, and logits.
    public let vocabSize: Int
    /// Width of the vision tower.
    public let visionHiddenSize: Int
    /// Heads of the resampler.
    public let resamplerHeads: Int
    /// Embeddings that the resampler gives a view or a group of frames.
    public let numQueries: Int
}

/// Constants of the published image processor.
public struct Preprocessing: Equatable, Sendable {
    /// Side in pixels of the square whose area a view is scaled to.
    public let scaleResolution: Int
    /// Side of a patch in pixels.
    public let patchSize: Int
    /// Slices that a picture may be cut into.
    public let maxSliceNums: Int
    /// Whether pictures are sliced; always true.
    public let sliceMode: Bool
    /// Whether pictures are numbered.
    public let useImageId: Bool
    /// A value a channel, for pixels in 0…1.
    public let normMean: [Double]
    /// A value a channel, for pixels in 0…1.
    public let normStd: [Double]
    /// Placeholders a view, or a group of video frames.
    public let numQueries: Int
    /// The position table has positionBuckets² rows.
    public let positionBuckets: Int
    /// Patches of the longest view that the vision graph takes.
    public let maxPatches: Int

    /// Constants that come from elsewhere than a manifest, as in tests.
    public init(
        scaleResolution: Int, patchSize: Int, maxSliceNums: Int, sliceMode: Bool,
        useImageId: Bool, normMean: [Double], normStd: [Double], numQueries: Int,
        positionBuckets: Int, maxPatches: Int
    ) {
        self.scaleResolution = scaleResolution
        self.patchSize = patchSize
        self.maxSliceNums = maxSliceNums
        self.sliceMode = sliceMode
        self.useImageId = useImageId
        self.normMean = normMean
        self.normStd = normStd
        self.numQueries = numQueries
        self.positionBuckets = positionBuckets
        self.maxPatches = maxPatches
    }
}

/// A token that is written by its id and never found in a user's text.
public struct SpecialToken: Equatable, Sendable {
    /// How the token is written.
    public let content: String
    /// Its id.
    public let id: Int

    /// A token with its id.
    public init(content: String, id: Int) {
        self.content = content
        self.id = id
    }
}

/// Chat format: special tokens by role, the ids that end an answer, the published template.
public struct Prompt: Equatable, Sendable {
    /// By role, such as `image_start`.
    public let specialTokens: [String: SpecialToken]
    /// Ids that end an answer.
    public let stopTokenIds: [Int]
    /// For display: `ChatTemplate` is its implementation.
    public let chatTemplate: String

    /// A format that comes from elsewhere than a manifest, as in tests.
    public init(
        specialTokens: [String: SpecialToken], stopTokenIds: [Int], chatTemplate: String
    ) {
        self.specialTokens = specialTokens
        self.stopTokenIds = stopTokenIds
        self.chatTemplate = chatTemplate
    }
}

/// Neutral values: temperature 1, topK 0 (all tokens), topP 1, repetitionPenalty 1.
public struct SamplingDefaults: Equatable, Sendable {
    /// Divides the logits; 0 takes the best token.
    public let temperature: Double
    /// Best tokens that are kept.
    public let topK: Int
    /// Sum of the probabilities that are kept.
    public let topP: Double
    /// Divides the logits of tokens that the answer has already.
    public let repetitionPenalty: Double

    /// Values that come from elsewhere than a manifest, as in tests.
    public init(temperature: Double, topK: Int, topP: Double, repetitionPenalty: Double) {
        self.temperature = temperature
        self.topK = topK
        self.topP = topP
        self.repetitionPenalty = repetitionPenalty
    }
}

/// Decoding defaults of the published chat(), without and with thinking.
public struct Generation: Equatable, Sendable {
    /// Without thinking.
    public let answer: SamplingDefaults
    /// With thinking.
    public let thinking: SamplingDefaults
    /// Tokens of an answer.
    public let maxNewTokens: Int
}

/// Where the decoder keeps keys and values.
public enum KeyValueCacheKind: String, CaseIterable, Sendable {
    /// In a state of the package.
    case state
    /// With the host, which passes it in and writes the new rows.
    case io
}

/// How the decoder's functions are to be driven; lengths in tokens.
public struct Decoding: Equatable, Sendable {
    /// Tokens of a conversation, the answer included.
    public let contextLength: Int
    /// Tokens of a prefill block.
    public let prefillLength: Int
    /// Where keys and values are kept.
    public let kvCache: KeyValueCacheKind

    /// Values that come from elsewhere than a manifest, as in tests.
    public init(contextLength: Int, prefillLength: Int, kvCache: KeyValueCacheKind) {
        self.contextLength = contextLength
        self.prefillLength = prefillLength
        self.kvCache = kvCache
    }
}

/// Where the weights come from.
public struct Source: Equatable, Sendable {
    /// Name of the checkpoint.
    public let name: String
    /// Over names, types, shapes and bytes of the checkpoint's tensors, in hexadecimal.
    public let sha256: String
    /// Its license.
    public let license: String
}

/// One file of the bundle.
public struct FileEntry: Equatable, Sendable {
    /// Relative to the bundle, with forward slashes.
    public let path: String
    /// In bytes.
    public let size: Int
    /// In hexadecimal.
    public let sha256: String
}
