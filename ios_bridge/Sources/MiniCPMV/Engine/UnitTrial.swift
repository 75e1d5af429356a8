/// Finds the compute unit of one package: opens it on one after the other until one satisfies.
struct UnitTrial {
    let graph: GraphSpec
    let opener: any PackageOpener
    let policy: ComputePolicy

    /// A unit on which the package ran, only too slowly.
    private struct Slow {
        let unit: ComputeUnit
        let share: Double?
        let seconds: Double
    }

    /// Open the package.
    ///
    /// - Parameter makeRoom: called before each opening; throws when memory does not suffice.
    /// - Throws: `MiniCPMVError.modelFailure` with every unit's reason, when it opens on none.
    func open(
        makeRoom: () throws -> Void
    ) async throws -> (engine: any Engine, placement: PackagePlacement) {
        var passedOver: [String] = []
        var slow: [Slow] = []
        let units = policy.units(for: graph.role)
        for unit in units {
            try Task.checkCancellation()
            let isLast = unit == units.last
            let share = try? await opener.plannedShare(graph, on: unit)
            if let share, share < policy.minPlannedShare, !isLast {
                passedOver.append("\(unit.rawValue): planned for \(percent(share)) of the cost.")
                continue
            }
            try makeRoom()
            do {
                let (engine, load, call) = try measured(on: unit)
                if let call, call.seconds > call.allowed, !isLast || !slow.isEmpty {
                    passedOver.append("\(unit.rawValue): a call took \(call.seconds) s.")
                    slow.append(Slow(unit: unit, share: share, seconds: call.seconds))
                    continue
                }
                return (engine, place(unit, share, load, call?.seconds, passedOver))
            } catch {
                passedOver.append("\(unit.rawValue): \(error.localizedDescription)")
            }
        }
        guard let best = slow.min(by: { $0.seconds < $1.seconds }) else {
            throw MiniCPMVError.modelFailure(
                "\(graph.name) runs on no compute unit (\(passedOver.joined(separator: " "))); "
                    + "restart the app, or export with smaller packages.")
        }
        try makeRoom()
        let (engine, load, _) = try measured(on: best.unit)
        return (engine, place(best.unit, best.share, load, best.seconds, passedOver))
    }

    private func place(
        _ unit: ComputeUnit, _ share: Double?, _ load: Double, _ call: Double?,
        _ passedOver: [String]
    ) -> PackagePlacement {
        PackagePlacement(
            package: graph.name, unit: unit, plannedShare: share, loadSeconds: load,
            secondsPerCall: call, passedOver: passedOver)
    }

    private func percent(_ share: Double) -> String {
        "\(Int((share * 100).rounded())) %"
    }

    private func measured(
        on unit: ComputeUnit
    ) throws -> (any Engine, load: Double, call: (seconds: Double, allowed: Double)?) {
        let clock = ContinuousClock()
        let start = clock.now
        let engine = try opener.open(graph, on: unit)
        guard opener.canMeasure, let function = measuredFunction else {
            return (engine, start.duration(to: clock.now) / .seconds(1), nil)
        }
        let state = graph.states.isEmpty ? nil : try engine.makeState()
        // The first call sets buffers up; it belongs to loading.
        _ = try engine.run(function.name, zeros(function), state: state)
        let load = start.duration(to: clock.now) / .seconds(1)
        let again = clock.now
        _ = try engine.run(function.name, zeros(function), state: state)
        let seconds = again.duration(to: clock.now) / .seconds(1)
        return (engine, load, (seconds, policy.secondsAllowed(graph, function)))
    }

    /// The function that is called most; none with an input of unknown shape.
    private var measuredFunction: FunctionSpec? {
        let function = graph.functions.first { $0.name == "decode" } ?? graph.functions.first
        let shapes = function?.inputs.map(\.shape) ?? []
        let isKnown = !shapes.isEmpty && shapes.joined().allSatisfy { (1...1 << 24).contains($0) }
        return isKnown ? function : nil
    }

    private func zeros(_ function: FunctionSpec) -> [String: Tensor] {
        Dictionary(
            function.inputs.map { ($0.name, Tensor(zeros: $0.shape)) },
            uniquingKeysWith: { first, _ in first })
    }
}
