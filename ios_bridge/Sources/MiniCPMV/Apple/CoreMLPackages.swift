#if canImport(CoreML)
    import CoreML
    import Foundation

    /// Opens the packages of a bundle with Core ML.
    struct CoreMLPackages: PackageOpener {
        private let bundle: ModelBundle
        private let compiled: CompiledPackages

        init(_ bundle: ModelBundle, cacheFolder: URL) throws {
            guard bundle.manifest.format == "coreml" else {
                throw MiniCPMVError.invalidManifest(
                    "The bundle's format is \(bundle.manifest.format), Core ML needs coreml; "
                        + "export one with `python -m export coreml`.")
            }
            self.bundle = bundle
            compiled = CompiledPackages(in: cacheFolder)
        }

        var canMeasure: Bool { true }

        func prepare(_ graph: GraphSpec) async throws {
            _ = try await compiledURL(graph)
        }

        func plannedShare(_ graph: GraphSpec, on unit: ComputeUnit) async throws -> Double? {
            let url = try await compiledURL(graph)
            let function = graph.functions.first { $0.name == "decode" } ?? graph.functions.first
            let configuration = Self.configuration(graph, function?.name ?? "main", unit)
            return try await CoreMLPlan.share(of: unit, url: url, configuration: configuration)
        }

        func open(_ graph: GraphSpec, on unit: ComputeUnit) throws -> any Engine {
            let url = compiled.location(of: graph, in: bundle)
            return try CoreMLEngine(graph) { function in
                try MLModel(
                    contentsOf: url, configuration: Self.configuration(graph, function, unit))
            }
        }

        private func compiledURL(_ graph: GraphSpec) async throws -> URL {
            try await compiled.url(of: graph, in: bundle) { package in
                do {
                    return try await MLModel.compileModel(at: package)
                } catch {
                    throw MiniCPMVError.modelFailure(
                        "\(graph.name) does not compile (\(error.localizedDescription)); free "
                            + "space for a second copy of the bundle, or copy it again.")
                }
            }
        }

        private static func configuration(
            _ graph: GraphSpec, _ function: String, _ unit: ComputeUnit
        ) -> MLModelConfiguration {
            let configuration = MLModelConfiguration()
            configuration.computeUnits = computeUnits(unit)
            // A package of one function has no choice of functions.
            if graph.functions.count > 1 { configuration.functionName = function }
            return configuration
        }

        private static func computeUnits(_ unit: ComputeUnit) -> MLComputeUnits {
            switch unit {
            case .neuralEngine: .cpuAndNeuralEngine
            case .gpu: .cpuAndGPU
            case .cpu: .cpuOnly
            }
        }
    }
#endif
