import Foundation
import MiniCPMV

/// Runs the golden vectors of a bundle, on Core ML or on recorded packages, and writes the report.
enum SelfTestCommand {
    static let command = Subcommand(
        usage: "self-test BUNDLE [--units UNIT,...] [--cache FOLDER] "
            + "[--calls FILE --values FILE --tolerance X]",
        run: run)

    private static func run(_ given: [String]) throws {
        let arguments = try Arguments(
            given, values: ["BUNDLE"],
            options: ["units", "cache", "calls", "values", "tolerance"],
            usage: command.usage)
        let units = try (arguments.text("units") ?? "neural_engine,gpu,cpu").split(separator: ",")
            .map { name in
                guard let unit = ComputeUnit(rawValue: String(name)) else {
                    throw MiniCPMVError.invalidOption(
                        "--units has '\(name)'; units are neural_engine, gpu and cpu.")
                }
                return unit
            }
        let configuration = Configuration(
            cacheFolder: arguments.text("cache").map { URL(fileURLWithPath: $0) },
            prewarms: false, packages: try recording(arguments),
            progress: { state in
                FileHandle.standardError.write(Data("\(state)\n".utf8))
            })
        let folder = URL(fileURLWithPath: arguments.values[0])
        let report = try Waiting.result {
            let model = try await MiniCPMV.load(bundle: folder, configuration: configuration)
            return try await model.selfTest(units: units)
        }
        Output.write(String(decoding: try report.json(), as: UTF8.self) + "\n")
    }

    private static func recording(_ arguments: Arguments) throws -> (any PackageOpener)? {
        guard let calls = arguments.text("calls"), let values = arguments.text("values") else {
            return nil
        }
        return SourcePackages(
            try RecordedEngines(
                calls: URL(fileURLWithPath: calls), values: URL(fileURLWithPath: values),
                tolerance: arguments.text("tolerance").flatMap(Float.init) ?? 0))
    }
}

/// Waits on the main thread for work of others.
enum Waiting {
    /// Written before the semaphore is signalled, read after.
    private final class Box<Value: Sendable>: @unchecked Sendable {
        var result: Result<Value, any Error>?
    }

    /// What `work` gives.
    static func result<Value: Sendable>(
        _ work: @escaping @Sendable () async throws -> Value
    ) throws -> Value {
        let done = DispatchSemaphore(value: 0)
        let box = Box<Value>()
        Task {
            do {
                box.result = .success(try await work())
            } catch {
                box.result = .failure(error)
            }
            done.signal()
        }
        done.wait()
        guard let result = box.result else { throw CancellationError() }
        return try result.get()
    }
}
