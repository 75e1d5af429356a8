/// The vision encoder and the resampler on the golden pictures.
struct PictureStages {
    let model: ChatModel
    let golden: GoldenVectors
    var vision: VisionPipeline

    private var length: Int { model.manifest.preprocessing.maxPatches }

    /// Golden patches to features.
    func features(_ checkpoint: () throws -> Void) throws -> SelfTest.Outcome {
        var outcome = SelfTest.Outcome()
        for chat in golden.chats {
            for (group, sizes) in chat.groupSizes.enumerated() {
                for (view, size) in sizes.enumerated() {
                    try checkpoint()
                    let patches = try golden.tensor(chat, "patches.\(group).\(view)")
                    let inputs = vision.encoderInputs(
                        try padded(patches.values, to: size.count), size: size)
                    let found = try vision.features(inputs)
                    let wanted = try golden.tensor(chat, "image_features.\(group).\(view)")
                    outcome.decibels.append(
                        SignalToNoise.decibels(rows(found, count: size.count), wanted.values))
                    outcome.count += 1
                }
            }
        }
        return noted(outcome)
    }

    /// Golden features to embeddings.
    mutating func embeds(_ checkpoint: () throws -> Void) throws -> SelfTest.Outcome {
        var outcome = SelfTest.Outcome()
        for chat in golden.chats {
            for (group, sizes) in chat.groupSizes.enumerated() {
                try checkpoint()
                var frames: [Tensor] = []
                for (view, size) in sizes.enumerated() {
                    let stage = "image_features.\(group).\(view)"
                    frames.append(try columns(try golden.tensor(chat, stage), count: size.count))
                }
                let found = try vision.resample(
                    frames, sizes: sizes, temporalIds: chat.temporalIds[group])
                let wanted = try golden.tensor(chat, "image_embeds.\(group)")
                outcome.decibels.append(SignalToNoise.decibels(found, wanted.values))
                outcome.count += 1
            }
        }
        return noted(outcome)
    }

    private func noted(_ outcome: SelfTest.Outcome) -> SelfTest.Outcome {
        var outcome = outcome
        if outcome.count == 0 { outcome.note = "No golden chat has a picture." }
        return outcome
    }

    /// A matrix of `count` columns with zeros behind each row.
    private func padded(_ values: [Float], to count: Int) throws -> [Float] {
        guard count >= 1, count <= length, values.count % count == 0 else {
            throw MiniCPMVError.damagedFile(
                "A golden view has \(count) patches and \(values.count) values, and the bundle "
                    + "takes \(length) patches; write the golden vectors again.")
        }
        let padding = [Float](repeating: 0, count: length - count)
        return stride(from: 0, to: values.count, by: count).flatMap {
            values[$0..<$0 + count] + padding
        }
    }

    /// (patches, width) to (1, width, 1, L).
    private func columns(_ features: Tensor, count: Int) throws -> Tensor {
        let width = model.manifest.architecture.visionHiddenSize
        guard features.values.count == count * width else {
            throw MiniCPMVError.damagedFile(
                "Golden features have the shape \(features.shape), not [\(count), \(width)]; "
                    + "write the golden vectors again.")
        }
        let turned = transposed(features.values, rows: count, columns: width)
        return Tensor(shape: [1, width, 1, length], values: try padded(turned, to: count))
    }

    /// (1, width, 1, L) to the first `count` columns, (count, width).
    private func rows(_ features: Tensor, count: Int) -> [Float] {
        let width = features.values.count / length
        return Array(
            transposed(features.values, rows: width, columns: length)[..<(count * width)])
    }
}

/// The image processor on the golden pictures' files.
struct PreprocessingStage {
    let model: ChatModel
    let golden: GoldenVectors

    func measured() throws -> SelfTest.Outcome {
        #if canImport(CoreGraphics) && canImport(ImageIO)
            var outcome = SelfTest.Outcome()
            for chat in golden.chats {
                let groups = chat.groupSizes
                // Frames of a video are not sliced: there are as many views as pictures.
                let whole = chat.tgtSizes.count == chat.pictures.count
                var views: [View] = []
                for name in chat.pictures {
                    let url = try model.locate("\(GoldenVectors.folder)/\(name)")
                    views += try model.processor.views(
                        of: RGBImage(contentsOf: url), maxSliceNums: whole ? 1 : nil)
                }
                let places = groups.indices.flatMap { group in
                    groups[group].indices.map { "patches.\(group).\($0)" }
                }
                for (view, place) in zip(views, places) {
                    let found = model.processor.patches(of: view, length: view.tgtSize.count)
                    let wanted = try golden.tensor(chat, place)
                    outcome.decibels.append(SignalToNoise.decibels(found, wanted.values))
                    outcome.count += 1
                }
            }
            return outcome
        #else
            return SelfTest.Outcome(note: "This system has no reader of picture files.")
        #endif
    }
}
