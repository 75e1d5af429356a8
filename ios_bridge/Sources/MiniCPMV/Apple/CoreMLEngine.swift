#if canImport(CoreML)
    import CoreML
    import Foundation

    /// The key/value cache of one package, kept by Core ML.
    private final class CoreMLState: EngineState {
        let state: MLState
        /// The engine that made it, for whose packages alone it is good.
        let owner: ObjectIdentifier

        init(_ state: MLState, owner: ObjectIdentifier) {
            self.state = state
            self.owner = owner
        }
    }

    /// One package in Core ML; each of its functions is loaded when it is first called.
    ///
    /// `@unchecked`: models and arrays are used by one thread at a time, which `lock` sees to; a
    /// prediction on a package takes all of its compute unit anyway.
    final class CoreMLEngine: Engine, @unchecked Sendable {
        private let graph: GraphSpec
        private let load: @Sendable (String) throws -> MLModel
        private let lock = NSLock()
        private var models: [String: MLModel] = [:]
        private var arrays: [String: MLMultiArray] = [:]

        /// - Parameter load: loads one function of the package.
        init(_ graph: GraphSpec, load: @escaping @Sendable (String) throws -> MLModel) throws {
            self.graph = graph
            self.load = load
            // What cannot be loaded should be known before it is needed.
            if let first = graph.functions.first { _ = try model(first.name) }
        }

        func makeState() throws -> any EngineState {
            try lock.withLock {
                let name = graph.functions.first?.name ?? "main"
                return CoreMLState(
                    try model(name).makeState(), owner: ObjectIdentifier(self))
            }
        }

        func run(
            _ function: String, _ inputs: [String: Tensor], state: (any EngineState)?
        ) throws -> [String: Tensor] {
            try lock.withLock {
                // Core ML's buffers of this call go before the next one's come.
                try autoreleasepool {
                    try predict(try graph.function(function), inputs, state)
                }
            }
        }

        private func predict(
            _ function: FunctionSpec, _ inputs: [String: Tensor], _ state: (any EngineState)?
        ) throws -> [String: Tensor] {
            let model = try model(function.name)
            let features = try features(function, inputs)
            let outputs: any MLFeatureProvider
            do {
                if let state {
                    outputs = try model.prediction(from: features, using: try own(state))
                } else {
                    outputs = try model.prediction(from: features)
                }
            } catch let error as MiniCPMVError {
                throw error
            } catch {
                throw MiniCPMVError.modelFailure(
                    "\(function.name) of \(graph.name) failed (\(error.localizedDescription)); "
                        + "unload() the model and try again, or allow other compute units.")
            }
            return try tensors(of: outputs, function)
        }

        private func own(_ state: any EngineState) throws -> MLState {
            guard let state = state as? CoreMLState, state.owner == ObjectIdentifier(self) else {
                throw MiniCPMVError.modelFailure(
                    "The model was unloaded since this conversation began, and its cache is gone; "
                        + "start a new one with chat().")
            }
            return state.state
        }

        private func model(_ function: String) throws -> MLModel {
            if let model = models[function] { return model }
            let model = try load(function)
            models[function] = model
            return model
        }

        private func features(
            _ function: FunctionSpec, _ inputs: [String: Tensor]
        ) throws -> any MLFeatureProvider {
            var values: [String: MLFeatureValue] = [:]
            for spec in function.inputs {
                guard let tensor = inputs[spec.name] else {
                    throw MiniCPMVError.modelFailure(
                        "\(function.name) of \(graph.name) lacks the input \(spec.name); "
                            + "export the bundle again.")
                }
                let array = try array(spec, of: function)
                try MultiArrayValues.write(tensor, to: array, name: spec.name)
                values[spec.name] = MLFeatureValue(multiArray: array)
            }
            return try MLDictionaryFeatureProvider(dictionary: values)
        }

        /// The decoder's arrays serve call after call; those of a view are freed after it.
        private func array(
            _ spec: TensorSpec, of function: FunctionSpec
        ) throws -> MLMultiArray {
            let key = "\(function.name).\(spec.name)"
            if let array = arrays[key] { return array }
            let array = try MLMultiArray(
                shape: spec.shape.map { NSNumber(value: $0) },
                dataType: try MultiArrayValues.type(of: spec))
            if graph.role == .decoder || graph.role == .lmHead { arrays[key] = array }
            return array
        }

        private func tensors(
            of outputs: any MLFeatureProvider, _ function: FunctionSpec
        ) throws -> [String: Tensor] {
            var tensors: [String: Tensor] = [:]
            for spec in function.outputs {
                guard let array = outputs.featureValue(for: spec.name)?.multiArrayValue else {
                    throw MiniCPMVError.modelFailure(
                        "\(function.name) of \(graph.name) gave no \(spec.name); "
                            + "export the bundle again.")
                }
                tensors[spec.name] = try MultiArrayValues.read(array, name: spec.name)
            }
            return tensors
        }
    }
#endif
