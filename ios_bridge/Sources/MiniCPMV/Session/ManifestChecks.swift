extension Manifest {
    private static let largest = 1 << 24

    /// Refuse numbers that no model has, before anything is computed or allocated with them.
    /// `manifest_checks.py` does the same.
    ///
    /// - Throws: `MiniCPMVError.invalidManifest`.
    func checkNumbers() throws {
        let sizes = [
            ("hidden_size", architecture.hiddenSize), ("num_layers", architecture.numLayers),
            ("num_attention_heads", architecture.numAttentionHeads),
            ("num_key_value_heads", architecture.numKeyValueHeads),
            ("head_dim", architecture.headDim),
            ("vocab_size", architecture.vocabSize),
            ("vision_hidden_size", architecture.visionHiddenSize),
            ("resampler_heads", architecture.resamplerHeads),
            ("scale_resolution", preprocessing.scaleResolution),
            ("patch_size", preprocessing.patchSize),
            ("max_slice_nums", preprocessing.maxSliceNums),
            ("num_queries", preprocessing.numQueries),
            ("position_buckets", preprocessing.positionBuckets),
            ("max_patches", preprocessing.maxPatches),
            ("context_length", decoding.contextLength),
            ("prefill_length", decoding.prefillLength),
            ("max_new_tokens", generation.maxNewTokens),
        ]
        for (name, value) in sizes where !(1...Self.largest).contains(value) {
            throw MiniCPMVError.invalidManifest(
                "\(name) in \(Manifest.fileName) is \(value); it must be 1 to \(Self.largest); "
                    + "export the bundle again.")
        }
        guard architecture.ropeTheta > 0, architecture.ropeTheta.isFinite else {
            throw MiniCPMVError.invalidManifest(
                "rope_theta in \(Manifest.fileName) must be a number above 0; "
                    + "export the bundle again.")
        }
        let (means, deviations) = (preprocessing.normMean, preprocessing.normStd)
        guard means.count == 3, deviations.count == 3, deviations.allSatisfy({ $0 > 0 }) else {
            throw MiniCPMVError.invalidManifest(
                "norm_mean and norm_std in \(Manifest.fileName) must be three numbers each, the "
                    + "latter above 0; export the bundle again.")
        }
    }

    /// Refuse tables whose shapes contradict the sizes of the model.
    ///
    /// - Throws: `MiniCPMVError.invalidManifest`.
    func checkTables() throws {
        let buckets = preprocessing.positionBuckets
        let queries = architecture.resamplerHeads * preprocessing.numQueries
        let wanted = [
            (try embedTokens.table, [architecture.vocabSize, architecture.hiddenSize]),
            (try positionEmbeddings, [buckets * buckets, architecture.visionHiddenSize]),
            (try resamplerKeyQuery, [queries, architecture.hiddenSize]),
        ]
        for (file, shape) in wanted where file.shape != shape {
            throw MiniCPMVError.invalidManifest(
                "\(file.path) has the shape \(file.shape), its model needs \(shape); "
                    + "export the bundle again.")
        }
    }
}
