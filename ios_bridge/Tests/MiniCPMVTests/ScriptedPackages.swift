import Foundation
import Synchronization

@testable import MiniCPMV

/// Packages that behave as a test says, unit by unit.
final class ScriptedPackages: PackageOpener {
    struct Behaviour: Sendable {
        var share: Double?
        var seconds = 0.0
        var failure: String?
    }

    private let behaviours: [ComputeUnit: Behaviour]
    private let engines: (any EngineSource)?
    private let record = Mutex<[String]>([])
    let canMeasure: Bool

    init(
        _ behaviours: [ComputeUnit: Behaviour] = [:], engines: (any EngineSource)? = nil
    ) {
        self.behaviours = behaviours
        self.engines = engines
        canMeasure = engines == nil
    }

    /// "package unit" of each opening so far.
    var opened: [String] { record.withLock { $0 } }

    func prepare(_ graph: GraphSpec) async throws {}

    func plannedShare(_ graph: GraphSpec, on unit: ComputeUnit) async throws -> Double? {
        behaviours[unit]?.share
    }

    func open(_ graph: GraphSpec, on unit: ComputeUnit) throws -> any Engine {
        record.withLock { $0.append("\(graph.name) \(unit.rawValue)") }
        let behaviour = behaviours[unit] ?? Behaviour()
        if let failure = behaviour.failure { throw MiniCPMVError.modelFailure(failure) }
        return try engines?.engine(for: graph) ?? SlowEngine(seconds: behaviour.seconds)
    }
}

private struct SlowEngine: Engine {
    private final class State: EngineState {}
    let seconds: Double

    func makeState() throws -> any EngineState { State() }

    func run(
        _ function: String, _ inputs: [String: Tensor], state: (any EngineState)?
    ) throws -> [String: Tensor] {
        Thread.sleep(forTimeInterval: seconds)
        return [:]
    }
}

extension GraphSpec {
    /// A package of one input, for `ScriptedPackages`.
    static func scripted(
        _ name: String, _ role: GraphRole = .decoder, weightBytes: Int = 0
    ) -> GraphSpec {
        let input = TensorSpec(name: "hidden_states", shape: [1, 4, 1, 1], dtype: "float16")
        return GraphSpec(
            name: name, role: role, path: name,
            functions: [FunctionSpec(name: "decode", inputs: [input], outputs: [])], states: [],
            blocks: 0..<1, parameters: 0, weightBytes: weightBytes)
    }
}
