/// Opens packages on a given compute unit. Core ML is one, packages made up in a test another.
public protocol PackageOpener: Sendable {
    /// Whether a call with zeros is possible and its time says something.
    var canMeasure: Bool { get }

    /// Get `graph` ready to be opened, which may take minutes the first time and is then kept.
    func prepare(_ graph: GraphSpec) async throws

    /// Share of the estimated cost of `graph`, 0 to 1, that the system plans for `unit`; nil where
    /// it does not say.
    func plannedShare(_ graph: GraphSpec, on unit: ComputeUnit) async throws -> Double?

    /// Open `graph`.
    func open(_ graph: GraphSpec, on unit: ComputeUnit) throws -> any Engine
}

/// Packages of an `EngineSource`, which has its own idea of where they run.
public struct SourcePackages: PackageOpener {
    private let source: any EngineSource

    /// The packages of `source`; a call with zeros could disturb a recording, so none is made.
    public init(_ source: any EngineSource) {
        self.source = source
    }

    /// False.
    public var canMeasure: Bool { false }

    /// Nothing to do.
    public func prepare(_ graph: GraphSpec) async throws {}

    /// Unknown.
    public func plannedShare(_ graph: GraphSpec, on unit: ComputeUnit) async throws -> Double? {
        nil
    }

    /// The source's package.
    public func open(_ graph: GraphSpec, on unit: ComputeUnit) throws -> any Engine {
        try source.engine(for: graph)
    }
}
