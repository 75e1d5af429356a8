import Foundation
import Synchronization

/// Engines that replay recorded calls: a session runs without the packages, on any machine.
///
/// Each package gives its recorded outputs in order, and refuses a call that is not the recorded
/// one: another function, other inputs, or values that differ by more than `tolerance`.
///
/// A recording is a JSON list of calls and a file of little-endian float32 values. A call has the
/// `graph` and `function`, and `inputs` and `outputs`: name, `shape`, and `offset` in values.
public final class RecordedEngines: EngineSource {
    struct RecordedArray: Decodable {
        let shape: [Int]
        let offset: Int
    }

    struct Call: Decodable {
        let graph: String
        let function: String
        let inputs: [String: RecordedArray]
        let outputs: [String: RecordedArray]
    }

    private let engines: [String: RecordedEngine]

    /// Read a recording.
    ///
    /// - Parameters:
    ///   - calls: the JSON file.
    ///   - values: the values.
    ///   - tolerance: largest difference of an input from the recorded one.
    /// - Throws: `MiniCPMVError.missingFile` or `damagedFile`.
    public init(calls: URL, values: URL, tolerance: Float) throws {
        guard let text = try? Data(contentsOf: calls),
            let data = try? Data(contentsOf: values, options: .alwaysMapped)
        else {
            throw MiniCPMVError.missingFile(
                "\(calls.path) or \(values.path) cannot be read; record the session again.")
        }
        guard let list = try? JSONDecoder().decode([Call].self, from: text) else {
            throw MiniCPMVError.damagedFile(
                "\(calls.path) is no recording; record the session again.")
        }
        let table = RecordedValues(data: data)
        engines = Dictionary(grouping: list, by: \.graph).mapValues {
            RecordedEngine($0, table, tolerance: tolerance)
        }
    }

    /// The recorded calls of `graph`.
    public func engine(for graph: GraphSpec) throws -> any Engine {
        guard let engine = engines[graph.name] else {
            throw MiniCPMVError.modelFailure("\(graph.name) was not recorded.")
        }
        return engine
    }

    /// The largest difference of any input so far from the recorded one, by `graph.input`.
    public var differences: [String: Float] {
        engines.values.reduce(into: [:]) { $0.merge($1.differences) { max($0, $1) } }
    }

    /// Calls that were recorded and not made yet.
    public var remainingCalls: Int {
        engines.values.reduce(0) { $0 + $1.remainingCalls }
    }
}

private struct RecordedValues: Sendable {
    let data: Data

    func tensor(_ array: RecordedEngines.RecordedArray) throws -> Tensor {
        let count = array.shape.reduce(1, *)
        guard array.offset >= 0, 4 * (array.offset + count) <= data.count else {
            throw MiniCPMVError.damagedFile(
                "The recording lacks values; record the session again.")
        }
        // A copy as it is: everything that runs this keeps its numbers little-endian.
        let values = [Float](unsafeUninitializedCapacity: count) { values, initialized in
            data.withUnsafeBytes { bytes in
                let recorded = bytes[4 * array.offset..<4 * (array.offset + count)]
                UnsafeMutableRawBufferPointer(values).copyMemory(
                    from: UnsafeRawBufferPointer(rebasing: recorded))
            }
            initialized = count
        }
        return Tensor(shape: array.shape, values: values)
    }
}

private final class RecordedState: EngineState {}

private final class RecordedEngine: Engine {
    private let calls: [RecordedEngines.Call]
    private let values: RecordedValues
    private let tolerance: Float
    private let progress = Mutex((next: 0, differences: [String: Float]()))

    init(_ calls: [RecordedEngines.Call], _ values: RecordedValues, tolerance: Float) {
        self.calls = calls
        self.values = values
        self.tolerance = tolerance
    }

    var differences: [String: Float] { progress.withLock { $0.differences } }

    var remainingCalls: Int { calls.count - progress.withLock { $0.next } }

    func makeState() -> any EngineState { RecordedState() }

    func run(
        _ function: String, _ inputs: [String: Tensor], state: (any EngineState)?
    ) throws -> [String: Tensor] {
        let number = progress.withLock { progress in
            progress.next += 1
            return progress.next - 1
        }
        guard number < calls.count else {
            throw MiniCPMVError.modelFailure(
                "\(function) was called after the recording's \(calls.count) calls.")
        }
        let call = calls[number]
        guard call.function == function, Set(call.inputs.keys) == Set(inputs.keys) else {
            throw MiniCPMVError.modelFailure(
                "Call \(number) of \(call.graph) was \(call.function) of "
                    + "\(call.inputs.keys.sorted()), not \(function) of \(inputs.keys.sorted()).")
        }
        for (name, given) in inputs { try compare(name, given, call, number) }
        return try call.outputs.mapValues(values.tensor)
    }

    private func compare(
        _ name: String, _ given: Tensor, _ call: RecordedEngines.Call, _ number: Int
    ) throws {
        guard let recorded = call.inputs[name] else { return }
        let expected = try values.tensor(recorded)
        guard expected.shape == given.shape else {
            throw MiniCPMVError.modelFailure(
                "\(name) of call \(number) of \(call.graph) has the shape \(given.shape), "
                    + "not \(expected.shape).")
        }
        let difference = Self.difference(given.values, expected.values)
        let key = "\(call.graph).\(name)"
        progress.withLock { $0.differences[key] = max($0.differences[key] ?? 0, difference) }
        guard difference <= tolerance else {
            throw MiniCPMVError.modelFailure(
                "\(name) of call \(number) of \(call.graph) differs from the recorded one by "
                    + "\(difference).")
        }
    }

    /// The largest difference of two arrays of one size; infinite for what is no number.
    private static func difference(_ given: [Float], _ expected: [Float]) -> Float {
        let areSame = given.withUnsafeBytes { given in
            expected.withUnsafeBytes { expected in
                guard let first = given.baseAddress, let second = expected.baseAddress else {
                    return true
                }
                return memcmp(first, second, given.count) == 0
            }
        }
        // Nearly all inputs are, and a look at each number takes long in a debug build.
        if areSame { return 0 }
        return zip(given, expected).reduce(Float(0)) { largest, pair in
            let difference = abs(pair.0 - pair.1)
            return difference.isNaN ? .infinity : max(largest, difference)
        }
    }
}
