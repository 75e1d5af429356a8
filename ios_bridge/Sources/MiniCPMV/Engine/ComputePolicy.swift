/// What runs a package besides the processor, which takes whatever the other leaves.
public enum ComputeUnit: String, Codable, CaseIterable, Sendable {
    /// The Apple Neural Engine.
    case neuralEngine = "neural_engine"
    /// The graphics processor.
    case gpu
    /// The processor alone.
    case cpu
}

/// Which compute units a package may run on, best first, and when the next one is tried.
///
/// A unit is passed over when the system's plan leaves too much of the package to others, when the
/// package does not load or run on it, or when a call is so slow that something else must be
/// computing. When none satisfies, the fastest that ran is taken.
public struct ComputePolicy: Sendable, Equatable {
    /// Units of each role, best first; roles that are absent take `defaultUnits`.
    public var units: [GraphRole: [ComputeUnit]]
    /// Share of the plan's estimated cost, 0 to 1, that the wanted unit must take.
    public var minPlannedShare: Double
    /// Weights that a call must read a second.
    public var minBytesPerSecond: Double
    /// Multiplications and additions that a call must do a second.
    public var minOperationsPerSecond: Double

    /// Neural Engine, then graphics processor, then processor.
    public static let defaultUnits: [ComputeUnit] = [.neuralEngine, .gpu, .cpu]

    /// The defaults are far below what a working unit reaches, and above a processor's.
    public init(
        units: [GraphRole: [ComputeUnit]] = [:], minPlannedShare: Double = 0.8,
        minBytesPerSecond: Double = 8e9, minOperationsPerSecond: Double = 2e11
    ) {
        self.units = units
        self.minPlannedShare = minPlannedShare
        self.minBytesPerSecond = minBytesPerSecond
        self.minOperationsPerSecond = minOperationsPerSecond
    }

    /// Every package on one unit, and on no other.
    public static func only(_ unit: ComputeUnit) -> ComputePolicy {
        ComputePolicy(
            units: Dictionary(uniqueKeysWithValues: GraphRole.allCases.map { ($0, [unit]) }))
    }

    /// Units for packages with `role`, best first; never empty.
    public func units(for role: GraphRole) -> [ComputeUnit] {
        guard let units = units[role], !units.isEmpty else { return Self.defaultUnits }
        return units
    }

    private static let callSeconds = 0.05  // what a call costs however small the package is

    /// Seconds that a call of `function` may take on a unit that works: its weights are read once
    /// and used for each column, the last axis of the first input.
    public func secondsAllowed(_ graph: GraphSpec, _ function: FunctionSpec) -> Double {
        let columns = Double(max(function.inputs.first?.shape.last ?? 1, 1))
        let reading = Double(graph.weightBytes) / minBytesPerSecond
        let computing = 2 * Double(graph.parameters) * columns / minOperationsPerSecond
        return Self.callSeconds + max(reading, computing)
    }
}

/// On what a package runs, and why not on something better.
public struct PackagePlacement: Codable, Equatable, Sendable {
    /// Name of the package.
    public let package: String
    /// What it runs on.
    public let unit: ComputeUnit
    /// Share of the plan's estimated cost on that unit; nil where the system has no plan.
    public let plannedShare: Double?
    /// Seconds to open it.
    public let loadSeconds: Double
    /// Seconds of one call with zeros; nil when none was made.
    public let secondsPerCall: Double?
    /// A sentence for each unit that was passed over.
    public let passedOver: [String]
}
