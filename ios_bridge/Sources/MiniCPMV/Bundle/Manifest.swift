/// Everything a reader of a bundle needs to know; `manifest.json` holds exactly these fields.
public struct Manifest: Equatable, Sendable {
    /// The schema that this package reads.
    public static let schemaVersion = 2
    /// The manifest's file in a bundle.
    public static let fileName = "manifest.json"

    public let schemaVersion: Int
    /// The packages' format: `coreml` or `onnx`.
    public let format: String
    /// The model's release.
    public let model: String
    public let architecture: Architecture
    public let preprocessing: Preprocessing
    public let prompt: Prompt
    public let generation: Generation
    public let decoding: Decoding
    /// The packages; those of one role in the order in which they run.
    public let graphs: [GraphSpec]
    /// Tables that the host looks up; an ONNX bundle has graphs for it and none of them.
    let hostTables: HostTables
    /// How the weights are stored; for display.
    public let recipe: JSONValue
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
    public let name: String
    public let shape: [Int]
    public let dtype: String
}

/// One callable function of a package.
public struct FunctionSpec: Equatable, Sendable {
    public let name: String
    public let inputs: [TensorSpec]
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
    public let name: String
    public let role: GraphRole
    /// The package, relative to the bundle.
    public let path: String
    public let functions: [FunctionSpec]
    public let states: [TensorSpec]
    /// The layers, or head slices, that it holds.
    public let blocks: Range<Int>
    public let parameters: Int
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
    public let shape: [Int]
    public let dtype: String
}

/// Token embeddings: `table[id] * scales[id]`; without scales the table holds them directly.
public struct EmbeddingTable: Equatable, Sendable {
    public let table: TensorFile
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
    public let hiddenSize: Int
    public let numLayers: Int
    public let numAttentionHeads: Int
    public let numKeyValueHeads: Int
    public let headDim: Int
    public let ropeTheta: Double
    public let vocabSize: Int
    public let visionHiddenSize: Int
    public let resamplerHeads: Int
    public let numQueries: Int
}

/// Constants of the published image processor.
public struct Preprocessing: Equatable, Sendable {
    /// Side in pixels of the square whose area a view is scaled to.
    public let scaleResolution: Int
    /// Side of a patch in pixels.
    public let patchSize: Int
    public let maxSliceNums: Int
    public let sliceMode: Bool
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
    public let content: String
    public let id: Int

    public init(content: String, id: Int) {
        self.content = content
        self.id = id
    }
}

/// Chat format: special tokens by role, the ids that end an answer, the published template.
public struct Prompt: Equatable, Sendable {
    public let specialTokens: [String: SpecialToken]
    public let stopTokenIds: [Int]
    public let chatTemplate: String

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
    public let temperature: Double
    public let topK: Int
    public let topP: Double
    public let repetitionPenalty: Double

    public init(temperature: Double, topK: Int, topP: Double, repetitionPenalty: Double) {
        self.temperature = temperature
        self.topK = topK
        self.topP = topP
        self.repetitionPenalty = repetitionPenalty
    }
}

/// Decoding defaults of the published chat(), without and with thinking.
public struct Generation: Equatable, Sendable {
    public let answer: SamplingDefaults
    public let thinking: SamplingDefaults
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
    public let contextLength: Int
    public let prefillLength: Int
    public let kvCache: KeyValueCacheKind

    public init(contextLength: Int, prefillLength: Int, kvCache: KeyValueCacheKind) {
        self.contextLength = contextLength
        self.prefillLength = prefillLength
        self.kvCache = kvCache
    }
}

/// Where the weights come from.
public struct Source: Equatable, Sendable {
    public let name: String
    /// Over names, types, shapes and bytes of the checkpoint's tensors, in hexadecimal.
    public let sha256: String
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
