import Synchronization

/// The open packages of a bundle: opened one after the other, each on the best unit that works,
/// within the memory that there is.
///
/// Safe from any thread. Packages of the vision side are closed when others need their memory, and
/// open again when a picture comes.
final class EngineLibrary: EngineSource {
    private struct Shelf: Sendable {
        var engines: [String: any Engine] = [:]
        var placements: [String: PackagePlacement] = [:]
    }

    private let opener: any PackageOpener
    private let policy: ComputePolicy
    private let memory: MemoryBudget
    private let graphs: [GraphSpec]
    private let shelf = Mutex(Shelf())

    init(
        _ manifest: Manifest, opener: any PackageOpener, policy: ComputePolicy,
        memory: MemoryBudget
    ) {
        graphs = manifest.graphs
        self.opener = opener
        self.policy = policy
        self.memory = memory
    }

    /// On what each package runs, in the order of the manifest; those never opened are left out.
    var placements: [PackagePlacement] {
        let placements = shelf.withLock { $0.placements }
        return graphs.compactMap { placements[$0.name] }
    }

    /// Names of the packages that are open.
    var openPackages: Set<String> { shelf.withLock { Set($0.engines.keys) } }

    /// Get a package ready to be opened.
    func prepare(_ graph: GraphSpec) async throws {
        try await opener.prepare(graph)
    }

    /// Find the package's unit and leave it open; does nothing when it is.
    func load(_ graph: GraphSpec) async throws {
        if openPackages.contains(graph.name) { return }
        let trial = UnitTrial(graph: graph, opener: opener, policy: policy)
        let (engine, placement) = try await trial.open { try makeRoom(for: graph) }
        shelf.withLock { shelf in
            // A conversation that has opened it meanwhile has its cache there.
            if shelf.engines[graph.name] == nil { shelf.engines[graph.name] = engine }
            shelf.placements[graph.name] = placement
        }
    }

    /// The open package; opened on its unit, or the first that takes it, when it is not.
    func engine(for graph: GraphSpec) throws -> any Engine {
        if let engine = shelf.withLock({ $0.engines[graph.name] }) { return engine }
        try makeRoom(for: graph)
        return try shelf.withLock { shelf in
            if let engine = shelf.engines[graph.name] { return engine }
            let (engine, placement) = try reopen(graph, shelf.placements[graph.name])
            shelf.engines[graph.name] = engine
            shelf.placements[graph.name] = placement
            return engine
        }
    }

    /// Close everything; what is asked for again is opened again.
    func close() {
        shelf.withLock { $0.engines = [:] }
    }

    private func reopen(
        _ graph: GraphSpec, _ known: PackagePlacement?
    ) throws -> (any Engine, PackagePlacement) {
        let clock = ContinuousClock()
        var reasons: [String] = []
        for unit in known.map({ [$0.unit] }) ?? policy.units(for: graph.role) {
            let start = clock.now
            do {
                let engine = try opener.open(graph, on: unit)
                let seconds = start.duration(to: clock.now) / .seconds(1)
                let placement = PackagePlacement(
                    package: graph.name, unit: unit, plannedShare: nil, loadSeconds: seconds,
                    secondsPerCall: nil, passedOver: reasons)
                return (engine, known ?? placement)
            } catch {
                reasons.append("\(unit.rawValue): \(error.localizedDescription)")
            }
        }
        throw MiniCPMVError.modelFailure(
            "\(graph.name) does not open (\(reasons.joined(separator: " "))); restart the app, or "
                + "copy the bundle again.")
    }

    /// Close the vision side when `graph` does not fit beside it, and refuse it when even that
    /// does not help.
    private func makeRoom(for graph: GraphSpec) throws {
        if memory.holds(graph.weightBytes) { return }
        let idle = graphs.filter { $0.role == .visionEncoder || $0.role == .resampler }
        shelf.withLock { shelf in
            for other in idle where other.name != graph.name { shelf.engines[other.name] = nil }
        }
        guard memory.holds(graph.weightBytes) else { throw memory.refusal(of: graph) }
    }
}
