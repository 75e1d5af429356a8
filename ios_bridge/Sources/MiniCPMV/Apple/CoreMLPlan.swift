#if canImport(CoreML)
    import CoreML
    import Foundation

    /// What the system plans to run where. The plan is made when a package is compiled: what then
    /// runs may differ, which only the time of a call shows.
    enum CoreMLPlan {
        /// Share of the estimated cost that is planned for `unit`, 0 to 1; nil without estimates.
        static func share(
            of unit: ComputeUnit, url: URL, configuration: MLModelConfiguration
        ) async throws -> Double? {
            let plan = try await MLComputePlan.load(
                contentsOf: url, configuration: configuration)
            guard case .program(let program) = plan.modelStructure else { return nil }
            let name = configuration.functionName
            let functions = program.functions.filter { name == nil || $0.key == name }
            var costs: [ComputeUnit: Double] = [:]
            for function in functions.values { add(function.block, plan, to: &costs) }
            let total = costs.values.reduce(0, +)
            return total > 0 ? (costs[unit] ?? 0) / total : nil
        }

        private static func add(
            _ block: MLModelStructure.Program.Block, _ plan: MLComputePlan,
            to costs: inout [ComputeUnit: Double]
        ) {
            for operation in block.operations {
                if let usage = plan.deviceUsage(for: operation),
                    let unit = unit(of: usage.preferred),
                    let cost = plan.estimatedCost(of: operation)
                {
                    costs[unit, default: 0] += cost.weight
                }
                for inner in operation.blocks { add(inner, plan, to: &costs) }
            }
        }

        private static func unit(of device: MLComputeDevice) -> ComputeUnit? {
            switch device {
            case .neuralEngine: .neuralEngine
            case .gpu: .gpu
            case .cpu: .cpu
            @unknown default: nil
            }
        }
    }
#endif
