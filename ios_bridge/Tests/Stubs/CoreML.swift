// What this package calls of Core ML, with the first systems that have it. Not shipped: Linux
// checks the calls against it.
import Foundation

public func autoreleasepool<Result>(invoking body: () throws -> Result) rethrows -> Result {
    try body()
}

@available(iOS 11, macOS 10.13, *)
public enum MLComputeUnits {
    case cpuOnly
    case cpuAndGPU
    @available(iOS 16, macOS 13, *)
    case cpuAndNeuralEngine
}

@available(iOS 12, macOS 10.14, *)
public class MLModelConfiguration {
    public init() {}
    public var computeUnits: MLComputeUnits = .cpuOnly
    @available(iOS 18, macOS 15, *)
    public var functionName: String?
}

@available(iOS 18, macOS 15, *)
public class MLState {}

@available(iOS 11, macOS 10.13, *)
public class MLModel {
    @available(iOS 12, macOS 10.14, *)
    public init(contentsOf url: URL, configuration: MLModelConfiguration) throws {}
    @available(iOS 16, macOS 13, *)
    public class func compileModel(at modelURL: URL) async throws -> URL { modelURL }
    public func prediction(from input: any MLFeatureProvider) throws -> any MLFeatureProvider {
        input
    }
    @available(iOS 18, macOS 15, *)
    public func prediction(
        from input: any MLFeatureProvider, using state: MLState
    ) throws -> any MLFeatureProvider { input }
    @available(iOS 18, macOS 15, *)
    public func makeState() -> MLState { MLState() }
}

@available(iOS 11, macOS 10.13, *)
public protocol MLFeatureProvider {
    func featureValue(for featureName: String) -> MLFeatureValue?
}

@available(iOS 11, macOS 10.13, *)
public class MLDictionaryFeatureProvider: MLFeatureProvider {
    public init(dictionary: [String: Any]) throws {}
    public func featureValue(for featureName: String) -> MLFeatureValue? { nil }
}

@available(iOS 11, macOS 10.13, *)
public class MLFeatureValue {
    public init(multiArray value: MLMultiArray) {}
    public var multiArrayValue: MLMultiArray? { nil }
}

@available(iOS 11, macOS 10.13, *)
public enum MLMultiArrayDataType: Int {
    case double = 65600  // not called
    case float32 = 65568
    @available(iOS 16, macOS 12, *)
    case float16 = 65552
    case int32 = 131104
}

@available(iOS 11, macOS 10.13, *)
public class MLMultiArray {
    public init(shape: [NSNumber], dataType: MLMultiArrayDataType) throws {}
    public var shape: [NSNumber] { [] }
    public var strides: [NSNumber] { [] }
    public var dataType: MLMultiArrayDataType { .float32 }
    @available(iOS 15.4, macOS 12.3, *)
    public func withUnsafeBytes<Result>(
        _ body: (UnsafeRawBufferPointer) throws -> Result
    ) rethrows -> Result { try body(UnsafeRawBufferPointer(start: nil, count: 0)) }
    @available(iOS 15.4, macOS 12.3, *)
    public func withUnsafeMutableBytes<Result>(
        _ body: (UnsafeMutableRawBufferPointer, [Int]) throws -> Result
    ) rethrows -> Result { try body(UnsafeMutableRawBufferPointer(start: nil, count: 0), []) }
}

@available(iOS 17, macOS 14, *)
public enum MLComputeDevice {
    case cpu(MLCPUComputeDevice)
    case gpu(MLGPUComputeDevice)
    case neuralEngine(MLNeuralEngineComputeDevice)
}

@available(iOS 17, macOS 14, *)
public class MLCPUComputeDevice {}

@available(iOS 17, macOS 14, *)
public class MLGPUComputeDevice {}

@available(iOS 17, macOS 14, *)
public class MLNeuralEngineComputeDevice {}

@available(iOS 17.4, macOS 14.4, *)
public enum MLModelStructure {
    case program(MLModelStructure.Program)
    case unsupported  // not called

    public struct Program {
        public let functions: [String: Function]

        public struct Function {
            public let block: Block
        }

        public struct Block {
            public let operations: [Operation]
        }

        public struct Operation {
            public let blocks: [Block]
        }
    }
}

@available(iOS 17.4, macOS 14.4, *)
public class MLComputePlan {
    public class func load(
        contentsOf url: URL, configuration: MLModelConfiguration
    ) async throws -> MLComputePlan { MLComputePlan() }
    public let modelStructure = MLModelStructure.unsupported
    public func deviceUsage(for operation: MLModelStructure.Program.Operation) -> DeviceUsage? {
        nil
    }
    public func estimatedCost(of operation: MLModelStructure.Program.Operation) -> Cost? { nil }

    public struct DeviceUsage {
        public let preferred: MLComputeDevice
    }

    public struct Cost {
        public let weight: Double
    }
}
