import Foundation
import MiniCPMV

/// `minicpmv plan-prompt`: conversations, one JSON object a line, as token ids and the places of
/// their pictures. A line is {"messages": […], "media": [{"grids": [[columns, rows] or null, …],
/// "temporal_ids": [[…]] or null}], "enable_thinking": …, "use_image_id": …, "temporal_ids": …};
/// a line that is refused gives {"error": …}.
enum PlanPromptCommand {
    static let command = Subcommand(
        usage: "plan-prompt BUNDLE [--num-queries N] < CONVERSATIONS", run: run)

    private static func run(_ given: [String]) throws {
        let arguments = try Arguments(
            given, values: ["BUNDLE"], options: ["num-queries"], usage: command.usage)
        let bundle = try ModelBundle(folder: URL(fileURLWithPath: arguments.values[0]))
        let config = bundle.manifest.preprocessing
        let encoder = try PromptEncoder(
            tokenizer: StandardInput.tokenizer(arguments.values[0]),
            prompt: bundle.manifest.prompt,
            preprocessing: try arguments.integer("num-queries").map(config.with) ?? config)
        for line in try StandardInput.json(FileHandle.standardInput.readDataToEndOfFile()) {
            print(plan(line, encoder).text)
        }
    }

    private static func plan(_ line: JSONValue, _ encoder: PromptEncoder) -> JSONValue {
        do {
            let fields = line.object ?? [:]
            let encoded = try encoder.encode(
                ChatTurn.list(parsing: fields["messages"] ?? .null),
                media: (fields["media"]?.array ?? []).map(layout),
                options: options(fields))
            return describe(encoded)
        } catch {
            return .object(["error": .string(error.localizedDescription)])
        }
    }

    private static func options(_ fields: [String: JSONValue]) -> PromptOptions {
        var options = PromptOptions(useImageId: fields["use_image_id"]?.bool)
        if let thinking = fields["enable_thinking"] { options.enableThinking = thinking.bool }
        options.temporalIds = fields["temporal_ids"].flatMap(groups)
        return options
    }

    private static func layout(_ value: JSONValue) -> MediaLayout {
        let grids = (value.object?["grids"]?.array ?? []).map { grid -> Grid? in
            guard let sides = grid.array?.compactMap(\.integer), sides.count == 2 else {
                return nil
            }
            return Grid(columns: sides[0], rows: sides[1])
        }
        return MediaLayout(
            grids: grids, temporalIds: value.object?["temporal_ids"].flatMap(groups))
    }

    private static func groups(_ value: JSONValue) -> [[Int]]? {
        value.array?.map { ($0.array ?? []).compactMap(\.integer) }
    }

    private static func describe(_ encoded: EncodedPrompt) -> JSONValue {
        func list(_ numbers: some Sequence<Int>) -> JSONValue {
            .array(numbers.map(JSONValue.integer))
        }
        let groups = encoded.groups.map { group in
            JSONValue.object([
                "frames": list(group.frames), "view": .integer(group.view),
                "temporal_ids": list(group.temporalIds),
            ])
        }
        return .object([
            "input_ids": list(encoded.inputIds),
            "image_bound": .array(
                encoded.imageBound.map { list([$0.lowerBound, $0.upperBound]) }),
            "groups": .array(groups),
            "text": .string(encoded.text),
        ])
    }
}

extension Preprocessing {
    /// The same constants with another number of placeholders a view.
    fileprivate func with(numQueries: Int) -> Preprocessing {
        Preprocessing(
            scaleResolution: scaleResolution, patchSize: patchSize, maxSliceNums: maxSliceNums,
            sliceMode: sliceMode, useImageId: useImageId, normMean: normMean, normStd: normStd,
            numQueries: numQueries, positionBuckets: positionBuckets, maxPatches: maxPatches)
    }
}
