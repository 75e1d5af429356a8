import Foundation
import MiniCPMV

/// Runs a recorded conversation (`ReplayScript`). Prints a line of JSON for each turn, and one for
/// the recording.
enum ReplayCommand {
    static let command = Subcommand(usage: "replay BUNDLE SCRIPT", run: run)

    private static func run(_ arguments: [String]) throws {
        let given = try Arguments(arguments, values: ["BUNDLE", "SCRIPT"], usage: command.usage)
        let replay = try Replay(
            bundle: URL(fileURLWithPath: given.values[0]),
            script: URL(fileURLWithPath: given.values[1]))
        for outcome in try Waiting.result({ try await replay.outcomes() }) {
            Output.write(try Output.json(outcome) + "\n")
        }
        let end = End(differences: replay.differences, remainingCalls: replay.remainingCalls)
        Output.write(try Output.json(end) + "\n")
    }

    private struct End: Encodable {
        let differences: [String: Float]
        let remainingCalls: Int
    }
}
