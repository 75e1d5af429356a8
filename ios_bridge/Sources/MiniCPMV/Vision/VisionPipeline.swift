import Foundation

/// Views to image embeddings: drives the vision encoder and the resampler of a bundle.
///
/// Everything that depends on positions is computed here on the host: the rows of the position
/// table, the masks, and the resampler's score bias.
struct VisionPipeline {
    private let manifest: Manifest
    private let engines: any EngineSource
    private let processor: ImagePreprocessor
    private let positionTable: MappedTable
    private var scoreBias: ScoreBias

    /// - Parameter locate: the file of a path of the manifest.
    init(
        _ manifest: Manifest, engines: any EngineSource, locate: (String) throws -> URL
    ) throws {
        self.manifest = manifest
        self.engines = engines
        processor = ImagePreprocessor(manifest.preprocessing)
        let (positions, query) = try (manifest.positionEmbeddings, manifest.resamplerKeyQuery)
        positionTable = try MappedTable(locate(positions.path), positions)
        scoreBias = ScoreBias(
            keyQuery: try MappedTable(locate(query.path), query),
            length: manifest.preprocessing.maxPatches)
    }

    /// Views of one group of frames to (queries, D), row by row.
    ///
    /// - Parameter checkpoint: called before each view; what it throws ends the run.
    mutating func encode(
        _ views: [View], temporalIds: [Int], checkpoint: () throws -> Void = {}
    ) throws -> [Float] {
        var features: [Tensor] = []
        for view in views {
            try checkpoint()
            features.append(try encode(view))
        }
        return try resample(features, sizes: views.map(\.tgtSize), temporalIds: temporalIds)
    }

    /// What the vision encoder takes for one view, padded to its static length.
    func encoderInputs(_ view: View) throws -> [String: Tensor] {
        try processor.check(view)
        let length = manifest.preprocessing.maxPatches
        return encoderInputs(
            processor.patches(of: view, length: length), size: view.tgtSize)
    }

    /// What the vision encoder takes for patches, one a column, padded to its static length.
    func encoderInputs(_ patches: [Float], size: Grid) -> [String: Tensor] {
        let config = manifest.preprocessing
        let length = config.maxPatches
        let ids = BucketPositions.positionIds(size, buckets: config.positionBuckets)
        let width = positionTable.columns
        var embeddings = [Float](repeating: 0, count: width * length)
        for (patch, id) in ids.enumerated() {
            for (channel, value) in positionTable.row(id).enumerated() {
                embeddings[channel * length + patch] = value
            }
        }
        let values = 3 * config.patchSize * config.patchSize
        return [
            "patches": Tensor(shape: [1, values, 1, length], values: patches),
            "position_embeddings": Tensor(shape: [1, width, 1, length], values: embeddings),
            "attention_mask": Tensor(
                shape: [1, 1, 1, length],
                values: AttentionMask.padding(count: size.count, length: length)),
        ]
    }

    /// Features of one view, (1, vision hidden, 1, L); those of padded patches mean nothing.
    private func encode(_ view: View) throws -> Tensor {
        try features(try encoderInputs(view))
    }

    /// Features of what `encoderInputs` gave, (1, vision hidden, 1, L).
    func features(_ inputs: [String: Tensor]) throws -> Tensor {
        let shape = inputs["position_embeddings"]?.shape ?? []
        var outputs: [String: Tensor] = [:]
        for (index, graph) in manifest.graphs(of: .visionEncoder).enumerated() {
            var given = inputs
            if index > 0 {
                given = ["attention_mask": inputs["attention_mask"] ?? Tensor(zeros: [0])]
                given["hidden_states"] = try outputs.output("output_hidden_states", shape: shape)
            }
            outputs = try engines.engine(for: graph).run("main", given, state: nil)
        }
        return try outputs.output("image_features", shape: shape)
    }

    /// Features of the frames of one group, (1, vision hidden, 1, L) each, to (queries, D).
    mutating func resample(
        _ features: [Tensor], sizes: [Grid], temporalIds: [Int]
    ) throws -> [Float] {
        guard let graph = manifest.graphs(of: .resampler).first else {
            throw MiniCPMVError.invalidManifest(
                "The bundle has no resampler; export the bundle again.")
        }
        let (width, length) = (
            manifest.architecture.visionHiddenSize, manifest.preprocessing.maxPatches
        )
        let inputs = [
            "image_features": Self.joined(features, sizes, width: width, length: length),
            "score_bias": scoreBias.bias(sizes: sizes, temporalIds: temporalIds),
        ]
        let outputs = try engines.engine(for: graph).run(
            "frames_\(features.count)", inputs, state: nil)
        let (queries, size) = (
            manifest.preprocessing.numQueries, manifest.architecture.hiddenSize
        )
        let embeds = try outputs.output("image_embeds", shape: [1, size, 1, queries])
        return transposed(embeds.values, rows: size, columns: queries)
    }

    /// Features of the frames side by side, (1, width, 1, frames · length), padding zero.
    private static func joined(
        _ features: [Tensor], _ sizes: [Grid], width: Int, length: Int
    ) -> Tensor {
        var joined = Tensor(zeros: [1, width, 1, length * features.count])
        for (number, (frame, size)) in zip(features, sizes).enumerated() {
            for channel in 0..<width {
                let from = channel * length
                let to = (channel * features.count + number) * length
                joined.values.replaceSubrange(
                    to..<to + size.count, with: frame.values[from..<from + size.count])
            }
        }
        return joined
    }
}
