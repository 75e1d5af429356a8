import Foundation
import MiniCPMV

/// One subcommand: `usage` is its line of help, `run` gets the arguments after its name.
struct Subcommand: Sendable {
    let usage: String
    let run: @Sendable ([String]) throws -> Void
}

let subcommands: [String: Subcommand] = [
    "chat": ChatCommand.command,
    "detokenize": DetokenizeCommand.command,
    "plan-prompt": PlanPromptCommand.command,
    "tokenize": TokenizeCommand.command,
    "unpack": UnpackCommand.command,
    "verify": VerifyCommand.command,
    "frames": FramesCommand.command,
    "replay": ReplayCommand.command,
    "resize": ResizeCommand.command,
    "sample": SampleCommand.command,
    "self-test": SelfTestCommand.command,
    "slice": SliceCommand.command,
    "tables": TablesCommand.command,
    "views": ViewsCommand.command,
]

func fail(_ text: String) -> Never {
    FileHandle.standardError.write(Data("error: \(text)\n".utf8))
    exit(2)
}

let given = Array(CommandLine.arguments.dropFirst())
guard let name = given.first, let subcommand = subcommands[name] else {
    let lines = subcommands.values.map { "  minicpmv \($0.usage)" }.sorted()
    FileHandle.standardError.write(Data(("Usage:\n" + lines.joined(separator: "\n") + "\n").utf8))
    exit(2)
}
do {
    try subcommand.run(Array(given.dropFirst()))
} catch let error as MiniCPMVError {
    fail(error.sentence)
} catch {
    fail(error.localizedDescription)
}
