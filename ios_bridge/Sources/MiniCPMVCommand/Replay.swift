import Foundation
import MiniCPMV
import Synchronization

/// A conversation on recorded packages: the whole session but the packages themselves.
struct Replay: Sendable {
    private let script: ReplayScript
    private let folder: URL
    private let session: ChatSession
    private let engines: RecordedEngines
    private let interrupting: InterruptingEngines

    /// - Parameters:
    ///   - bundle: the bundle's folder.
    ///   - path: a script.
    init(bundle: URL, script path: URL) throws {
        folder = path.deletingLastPathComponent()
        script = try Input.json(path.path, as: ReplayScript.self)
        engines = try RecordedEngines(
            calls: folder.appendingPathComponent(script.calls),
            values: folder.appendingPathComponent(script.values), tolerance: script.tolerance)
        interrupting = InterruptingEngines(engines)
        session = try ChatModel(bundle: ModelBundle(folder: bundle), engines: interrupting).chat()
    }

    /// What the turns gave when they were recorded.
    var expected: [ReplayOutcome] { script.expected }

    /// The largest difference of any input so far from the recorded one, by `package.input`.
    var differences: [String: Float] { engines.differences }

    /// Calls that were recorded and not made.
    var remainingCalls: Int { engines.remainingCalls }

    /// What the turns give.
    func outcomes() async throws -> [ReplayOutcome] {
        var outcomes: [ReplayOutcome] = []
        for turn in script.turns {
            let answer = try interrupting.begin(cancellingAfter: turn.cancelAfter) {
                try turn.stream(session, folder)
            }
            outcomes.append(await ReplayOutcome(of: answer))
        }
        return outcomes
    }
}

/// Cancels an answer in the call that follows its nth token, so at the same place each time.
private final class InterruptingEngines: EngineSource {
    private struct Interruption {
        let answer: Answer
        let tokens: Int
    }

    private let engines: any EngineSource
    private let interruption = Mutex<Interruption?>(nil)

    init(_ engines: any EngineSource) {
        self.engines = engines
    }

    func engine(for graph: GraphSpec) throws -> any Engine {
        InterruptingEngine(engine: try engines.engine(for: graph), source: self)
    }

    /// The answer that `start` begins; its calls wait until it is known here.
    func begin(cancellingAfter tokens: Int?, _ start: () throws -> Answer) rethrows -> Answer {
        try interruption.withLock { interruption in
            let answer = try start()
            interruption = tokens.map { Interruption(answer: answer, tokens: $0) }
            return answer
        }
    }

    func interrupt() {
        interruption.withLock { interruption in
            guard let known = interruption else { return }
            if known.answer.tokenIds.count >= known.tokens { known.answer.cancel() }
        }
    }
}

private struct InterruptingEngine: Engine {
    let engine: any Engine
    let source: InterruptingEngines

    func makeState() throws -> any EngineState { try engine.makeState() }

    func run(
        _ function: String, _ inputs: [String: Tensor], state: (any EngineState)?
    ) throws -> [String: Tensor] {
        source.interrupt()
        return try engine.run(function, inputs, state: state)
    }
}
