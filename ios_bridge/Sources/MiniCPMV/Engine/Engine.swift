/// The memory that a stateful package keeps between calls: its key/value cache.
public protocol EngineState: AnyObject {}

/// One open package: arrays in, arrays out. Core ML is one engine, a recording another.
public protocol Engine: Sendable {
    /// A zeroed state, shared by the functions of the package.
    func makeState() throws -> any EngineState

    /// Call one function.
    ///
    /// - Parameters:
    ///   - function: a name out of the package's `GraphSpec.functions`.
    ///   - inputs: an array for each declared input; whole numbers, such as `position`, too.
    ///   - state: what `makeState` gave, for packages with states.
    /// - Returns: outputs by name.
    func run(
        _ function: String, _ inputs: [String: Tensor], state: (any EngineState)?
    ) throws -> [String: Tensor]
}

/// Opens the packages of a bundle, and keeps those open that it wants to.
///
/// A session asks for a package whenever it is about to run it.
public protocol EngineSource: Sendable {
    /// The open package of `graph`.
    func engine(for graph: GraphSpec) throws -> any Engine
}
