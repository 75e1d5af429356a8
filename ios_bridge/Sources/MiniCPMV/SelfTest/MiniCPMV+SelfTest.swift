import Foundation

extension MiniCPMV {
    /// Compare every stage with PyTorch, on one compute unit after the other.
    ///
    /// Takes the golden vectors of the bundle (`python -m validation parity BUNDLE
    /// --write-golden`). The model's own packages are closed, for a second copy would not fit.
    ///
    /// - Parameter units: the units to test.
    /// - Returns: what each stage gave; a stage that fails is in it with its reason.
    /// - Throws: `MiniCPMVError` without golden vectors; `CancellationError`.
    public func selfTest(
        units: [ComputeUnit] = ComputeUnit.allCases
    ) async throws -> SelfTestReport {
        let available = MemoryBudget.systemAvailable()
        let test = try SelfTest(model)
        unload()
        var stages = [try test.preprocessing()]
        var placements: [PackagePlacement] = []
        for unit in units {
            let library = EngineLibrary(
                model.manifest, opener: opener, policy: .only(unit),
                memory: configuration.memory)
            for graph in model.manifest.graphs {
                // What does not load says so in its stage.
                try? await library.load(graph)
                try Task.checkCancellation()
            }
            stages += try test.run(unit, library, checkpoint: Task.checkCancellation)
            placements += library.placements
        }
        return SelfTestReport(
            version: SelfTestReport.version, device: SelfTestReport.deviceModel,
            system: ProcessInfo.processInfo.operatingSystemVersionString,
            model: model.manifest.model,
            recipe: model.manifest.recipe.object?["name"]?.string ?? "unknown",
            manifestSha256: manifestSHA256, availableBytes: available,
            peakBytes: MemoryBudget.peakOfProcess(), stages: stages, placements: placements)
    }
}
