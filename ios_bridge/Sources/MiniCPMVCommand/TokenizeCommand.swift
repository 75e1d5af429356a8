import Foundation
import MiniCPMV

/// `minicpmv tokenize`: the text on standard input as token ids.
enum TokenizeCommand {
    static let command = Subcommand(
        usage: "tokenize BUNDLE|TOKENIZER.JSON [--lines | --json] < TEXT", run: run)

    private static func run(_ given: [String]) throws {
        let arguments = try Arguments(
            given, values: ["BUNDLE"], flags: ["lines", "json"], usage: command.usage)
        let tokenizer = try StandardInput.tokenizer(arguments.values[0])
        let input = FileHandle.standardInput.readDataToEndOfFile()
        var texts = [String(decoding: input, as: UTF8.self)]
        if arguments.has("json") { texts = try StandardInput.json(input).map(text) }
        if arguments.has("lines") {
            texts = StandardInput.lines(input).map { String(decoding: $0, as: UTF8.self) }
        }
        var output = ""
        for text in texts {
            output += tokenizer.encode(text).map(String.init).joined(separator: " ") + "\n"
        }
        FileHandle.standardOutput.write(Data(output.utf8))
    }

    private static func text(_ value: JSONValue) throws -> String {
        guard let text = value.string else {
            throw MiniCPMVError.invalidOption("With --json every line is a JSON text.")
        }
        return text
    }
}

/// `minicpmv detokenize`: lines of token ids as JSON lists of the pieces that a stream yields; the
/// last piece is what the end of the text adds.
enum DetokenizeCommand {
    static let command = Subcommand(
        usage: "detokenize BUNDLE|TOKENIZER.JSON [--keep-special] < IDS", run: run)

    private static func run(_ given: [String]) throws {
        let arguments = try Arguments(
            given, values: ["BUNDLE"], flags: ["keep-special"], usage: command.usage)
        let tokenizer = try StandardInput.tokenizer(arguments.values[0])
        var stream = StreamDecoder(
            tokenizer, skippingSpecial: !arguments.has("keep-special"))
        var output = ""
        for line in StandardInput.lines(FileHandle.standardInput.readDataToEndOfFile()) {
            let ids = String(decoding: line, as: UTF8.self).split(separator: " ").compactMap {
                Int($0)
            }
            var pieces = ids.map { JSONValue.string(stream.push($0)) }
            pieces.append(.string(stream.flush()))
            output += JSONValue.array(pieces).text + "\n"
        }
        FileHandle.standardOutput.write(Data(output.utf8))
    }
}

/// What several subcommands read.
enum StandardInput {
    /// The lines of `data`, without their ends; an empty one after the last line break is none.
    static func lines(_ data: Data) -> [Data] {
        var lines = data.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false)
        if lines.last?.isEmpty == true { lines.removeLast() }
        return lines
    }

    /// Every line of `data`, parsed.
    static func json(_ data: Data) throws -> [JSONValue] {
        try lines(data).enumerated().map { number, line in
            do throws(JSONError) {
                return try JSONValue(parsing: line)
            } catch {
                throw MiniCPMVError.invalidOption(
                    "Line \(number + 1) is not valid JSON (\(error.reason)); give one value a line."
                )
            }
        }
    }

    /// The tokenizer of a bundle, or of a tokenizer.json.
    static func tokenizer(_ path: String) throws -> Tokenizer {
        let url = URL(fileURLWithPath: path)
        let isFile = url.pathExtension == "json"
        return try Tokenizer(
            contentsOf: isFile ? url : url.appendingPathComponent("tokenizer/tokenizer.json"))
    }
}
