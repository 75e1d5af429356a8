extension Manifest {
    /// Build a manifest from parsed JSON, refusing missing, unknown and mistyped fields.
    ///
    /// - Throws: `MiniCPMVError.invalidManifest`.
    public init(decoding value: JSONValue) throws {
        let fields = try ManifestFields(
            value, at: "manifest",
            names: [
                "schema_version", "format", "model", "architecture", "preprocessing", "prompt",
                "generation", "decoding", "graphs", "embed_tokens", "position_embeddings",
                "resampler_key_query", "recipe", "source", "tools", "files",
            ])
        schemaVersion = try fields.integer("schema_version")
        format = try fields.string("format")
        model = try fields.string("model")
        architecture = try Architecture(fields.value("architecture"), fields.place("architecture"))
        preprocessing = try Preprocessing(
            fields.value("preprocessing"), fields.place("preprocessing"))
        prompt = try Prompt(fields.value("prompt"), fields.place("prompt"))
        generation = try Generation(fields.value("generation"), fields.place("generation"))
        decoding = try Decoding(fields.value("decoding"), fields.place("decoding"))
        graphs = try fields.list("graphs", GraphSpec.init)
        hostTables = HostTables(
            embedTokens: try fields.optional("embed_tokens", EmbeddingTable.init),
            positionEmbeddings: try fields.optional("position_embeddings", TensorFile.init),
            resamplerKeyQuery: try fields.optional("resampler_key_query", TensorFile.init))
        recipe = .object(try fields.table("recipe") { value, _ in value })
        source = try Source(fields.value("source"), fields.place("source"))
        tools = try fields.table("tools", ManifestFields.string)
        files = try fields.list("files", FileEntry.init)
    }
}

extension TensorSpec {
    init(_ value: JSONValue, _ place: String) throws {
        let fields = try ManifestFields(value, at: place, names: ["name", "shape", "dtype"])
        name = try fields.string("name")
        shape = try fields.list("shape", ManifestFields.integer)
        dtype = try fields.string("dtype")
    }
}

extension FunctionSpec {
    init(_ value: JSONValue, _ place: String) throws {
        let fields = try ManifestFields(value, at: place, names: ["name", "inputs", "outputs"])
        name = try fields.string("name")
        inputs = try fields.list("inputs", TensorSpec.init)
        outputs = try fields.list("outputs", TensorSpec.init)
    }
}

extension GraphSpec {
    init(_ value: JSONValue, _ place: String) throws {
        let fields = try ManifestFields(
            value, at: place,
            names: [
                "name", "role", "path", "functions", "states", "blocks", "parameters",
                "weight_bytes",
            ])
        name = try fields.string("name")
        role = try fields.choice("role")
        path = try fields.string("path")
        functions = try fields.list("functions", FunctionSpec.init)
        states = try fields.list("states", TensorSpec.init)
        let bounds = try fields.list("blocks", count: 2, ManifestFields.integer)
        guard let first = bounds.first, let end = bounds.last, first <= end else {
            throw ManifestFields.mistyped(
                fields.value("blocks"), at: fields.place("blocks"), wanted: "a rising range")
        }
        blocks = first..<end
        parameters = try fields.integer("parameters")
        weightBytes = try fields.integer("weight_bytes")
    }
}

extension TensorFile {
    init(_ value: JSONValue, _ place: String) throws {
        let fields = try ManifestFields(value, at: place, names: ["path", "shape", "dtype"])
        path = try fields.string("path")
        shape = try fields.list("shape", ManifestFields.integer)
        dtype = try fields.string("dtype")
    }
}

extension EmbeddingTable {
    init(_ value: JSONValue, _ place: String) throws {
        let fields = try ManifestFields(value, at: place, names: ["table", "scales"])
        table = try TensorFile(fields.value("table"), fields.place("table"))
        scales = try fields.optional("scales", TensorFile.init)
    }
}

extension Architecture {
    init(_ value: JSONValue, _ place: String) throws {
        let fields = try ManifestFields(
            value, at: place,
            names: [
                "hidden_size", "num_layers", "num_attention_heads", "num_key_value_heads",
                "head_dim", "rope_theta", "vocab_size", "vision_hidden_size", "resampler_heads",
                "num_queries",
            ])
        hiddenSize = try fields.integer("hidden_size")
        numLayers = try fields.integer("num_layers")
        numAttentionHeads = try fields.integer("num_attention_heads")
        numKeyValueHeads = try fields.integer("num_key_value_heads")
        headDim = try fields.integer("head_dim")
        ropeTheta = try fields.double("rope_theta")
        vocabSize = try fields.integer("vocab_size")
        visionHiddenSize = try fields.integer("vision_hidden_size")
        resamplerHeads = try fields.integer("resampler_heads")
        numQueries = try fields.integer("num_queries")
    }
}

extension Preprocessing {
    init(_ value: JSONValue, _ place: String) throws {
        let fields = try ManifestFields(
            value, at: place,
            names: [
                "scale_resolution", "patch_size", "max_slice_nums", "slice_mode", "use_image_id",
                "norm_mean", "norm_std", "num_queries", "position_buckets", "max_patches",
            ])
        self.init(
            scaleResolution: try fields.integer("scale_resolution"),
            patchSize: try fields.integer("patch_size"),
            maxSliceNums: try fields.integer("max_slice_nums"),
            sliceMode: try fields.bool("slice_mode"),
            useImageId: try fields.bool("use_image_id"),
            normMean: try fields.list("norm_mean", ManifestFields.double),
            normStd: try fields.list("norm_std", ManifestFields.double),
            numQueries: try fields.integer("num_queries"),
            positionBuckets: try fields.integer("position_buckets"),
            maxPatches: try fields.integer("max_patches"))
    }
}

extension SpecialToken {
    init(_ value: JSONValue, _ place: String) throws {
        let fields = try ManifestFields(value, at: place, names: ["content", "id"])
        self.init(content: try fields.string("content"), id: try fields.integer("id"))
    }
}

extension Prompt {
    init(_ value: JSONValue, _ place: String) throws {
        let fields = try ManifestFields(
            value, at: place, names: ["special_tokens", "stop_token_ids", "chat_template"])
        self.init(
            specialTokens: try fields.table("special_tokens", SpecialToken.init),
            stopTokenIds: try fields.list("stop_token_ids", ManifestFields.integer),
            chatTemplate: try fields.string("chat_template"))
    }
}

extension SamplingDefaults {
    init(_ value: JSONValue, _ place: String) throws {
        let fields = try ManifestFields(
            value, at: place, names: ["temperature", "top_k", "top_p", "repetition_penalty"])
        self.init(
            temperature: try fields.double("temperature"),
            topK: try fields.integer("top_k"),
            topP: try fields.double("top_p"),
            repetitionPenalty: try fields.double("repetition_penalty"))
    }
}

extension Generation {
    init(_ value: JSONValue, _ place: String) throws {
        let fields = try ManifestFields(
            value, at: place, names: ["answer", "thinking", "max_new_tokens"])
        answer = try SamplingDefaults(fields.value("answer"), fields.place("answer"))
        thinking = try SamplingDefaults(fields.value("thinking"), fields.place("thinking"))
        maxNewTokens = try fields.integer("max_new_tokens")
    }
}

extension Decoding {
    init(_ value: JSONValue, _ place: String) throws {
        let fields = try ManifestFields(
            value, at: place, names: ["context_length", "prefill_length", "kv_cache"])
        self.init(
            contextLength: try fields.integer("context_length"),
            prefillLength: try fields.integer("prefill_length"),
            kvCache: try fields.choice("kv_cache"))
    }
}

extension Source {
    init(_ value: JSONValue, _ place: String) throws {
        let fields = try ManifestFields(value, at: place, names: ["name", "sha256", "license"])
        name = try fields.string("name")
        sha256 = try fields.string("sha256")
        license = try fields.string("license")
    }
}

extension FileEntry {
    init(_ value: JSONValue, _ place: String) throws {
        let fields = try ManifestFields(value, at: place, names: ["path", "size", "sha256"])
        path = try fields.string("path")
        size = try fields.integer("size")
        sha256 = try fields.string("sha256")
    }
}
