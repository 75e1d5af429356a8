import XCTest

@testable import MiniCPMV

final class UnitTrialTests: XCTestCase {
    private typealias Behaviour = ScriptedPackages.Behaviour

    private func place(
        _ packages: ScriptedPackages, _ policy: ComputePolicy = ComputePolicy()
    ) async throws -> PackagePlacement {
        let trial = UnitTrial(graph: .scripted("a"), opener: packages, policy: policy)
        return try await trial.open(makeRoom: {}).placement
    }

    func testTheFirstUnitThatWorksIsTaken() async throws {
        let packages = ScriptedPackages([.neuralEngine: Behaviour(share: 0.9)])
        let placement = try await place(packages)
        XCTAssertEqual(placement.unit, .neuralEngine)
        XCTAssertEqual(placement.plannedShare, 0.9)
        XCTAssertNotNil(placement.secondsPerCall)
        XCTAssertEqual(placement.passedOver, [])
        XCTAssertEqual(packages.opened, ["a neural_engine"])
    }

    func testAUnitThatThePlanHardlyUsesIsPassedOverUnopened() async throws {
        let packages = ScriptedPackages([
            .neuralEngine: Behaviour(share: 0.79), .gpu: Behaviour(share: 0.8),
        ])
        let placement = try await place(packages)
        XCTAssertEqual(placement.unit, .gpu)
        XCTAssertEqual(
            placement.passedOver, ["neural_engine: planned for 79 % of the cost."])
        XCTAssertEqual(packages.opened, ["a gpu"])
    }

    func testAUnitOnWhichThePackageDoesNotLoadIsPassedOver() async throws {
        let packages = ScriptedPackages([
            .neuralEngine: Behaviour(failure: "No."), .gpu: Behaviour(share: 0),
        ])
        let placement = try await place(packages)
        XCTAssertEqual(placement.unit, .cpu)
        XCTAssertEqual(
            placement.passedOver, ["neural_engine: No.", "gpu: planned for 0 % of the cost."])
    }

    func testASlowUnitIsPassedOver() async throws {
        let packages = ScriptedPackages([.neuralEngine: Behaviour(seconds: 0.2)])
        let policy = ComputePolicy(units: [.decoder: [.neuralEngine, .cpu]])
        let placement = try await place(packages, policy)
        XCTAssertEqual(placement.unit, .cpu)
        XCTAssertEqual(placement.passedOver.count, 1)
        XCTAssertTrue(placement.passedOver[0].hasPrefix("neural_engine: a call took "))
    }

    func testTheFastestIsTakenWhereAllAreSlow() async throws {
        let packages = ScriptedPackages([
            .neuralEngine: Behaviour(seconds: 1.2), .gpu: Behaviour(seconds: 0.2),
            .cpu: Behaviour(seconds: 2.2),
        ])
        let placement = try await place(packages)
        XCTAssertEqual(placement.unit, .gpu)
        XCTAssertEqual(packages.opened.last, "a gpu")
        XCTAssertEqual(placement.passedOver.count, 3)
    }

    func testASlowPackageWithOneUnitRunsThere() async throws {
        let placement = try await place(
            ScriptedPackages([.cpu: Behaviour(share: 0, seconds: 0.1)]), .only(.cpu))
        XCTAssertEqual(placement.unit, .cpu)
        XCTAssertEqual(placement.passedOver, [])
    }

    func testEveryReasonIsNamedWhereNoUnitWorks() async throws {
        let packages = ScriptedPackages([
            .neuralEngine: Behaviour(failure: "First."), .gpu: Behaviour(failure: "Second."),
            .cpu: Behaviour(failure: "Third."),
        ])
        do {
            _ = try await place(packages)
            XCTFail("ran")
        } catch let error as MiniCPMVError {
            XCTAssertEqual(error.caseName, "modelFailure")
            for reason in ["First.", "Second.", "Third."] {
                XCTAssertTrue(error.sentence.contains(reason), error.sentence)
            }
        }
    }

    func testLargePackagesMayTakeLonger() throws {
        let policy = ComputePolicy(minBytesPerSecond: 8e9, minOperationsPerSecond: 2e11)
        let graph = GraphSpec.scripted("a", weightBytes: 800_000_000)
        let allowed = policy.secondsAllowed(graph, try graph.function("decode"))
        XCTAssertEqual(allowed, 0.15, accuracy: 1e-12)  // a call, and 0.1 s of reading
    }
}

final class EngineLibraryTests: XCTestCase {
    private func library(
        _ packages: ScriptedPackages, free: @escaping @Sendable () -> Int?
    ) throws -> (EngineLibrary, [GraphSpec]) {
        let graphs = [
            GraphSpec.scripted("vision", .visionEncoder, weightBytes: 400),
            GraphSpec.scripted("decoder", .decoder, weightBytes: 600),
        ]
        let library = EngineLibrary(
            try ToyModel().manifest.with(graphs: graphs), opener: packages,
            policy: ComputePolicy(), memory: MemoryBudget(reserve: 50, available: free))
        return (library, graphs)
    }

    func testAPackageIsOpenedOnce() async throws {
        let packages = ScriptedPackages()
        let (library, graphs) = try library(packages) { nil }
        for graph in graphs + graphs {
            try await library.load(graph)
            _ = try library.engine(for: graph)
        }
        XCTAssertEqual(packages.opened, ["vision neural_engine", "decoder neural_engine"])
        library.close()
        XCTAssertEqual(library.openPackages, [])
        _ = try library.engine(for: graphs[1])
        XCTAssertEqual(packages.opened.count, 3)
        XCTAssertEqual(library.placements.map(\.package), ["vision", "decoder"])
    }

    func testAPackageIsOpenedAgainWhereItRan() async throws {
        let packages = ScriptedPackages([.neuralEngine: .init(failure: "No.")])
        let (library, graphs) = try library(packages) { nil }
        try await library.load(graphs[0])
        library.close()
        _ = try library.engine(for: graphs[0])
        XCTAssertEqual(
            packages.opened, ["vision neural_engine", "vision gpu", "vision gpu"])
    }

    func testVisionMakesRoomForTheDecoder() async throws {
        let packages = ScriptedPackages()
        let free = Free(1000)
        let (library, graphs) = try library(packages) { free.bytes(packages) }
        free.watch(library)
        try await library.load(graphs[0])
        XCTAssertEqual(library.openPackages, ["vision"])
        try await library.load(graphs[1])
        XCTAssertEqual(library.openPackages, ["decoder"])
    }

    func testAPackageThatDoesNotFitIsRefused() async throws {
        let (library, graphs) = try library(ScriptedPackages()) { 449 }
        do {
            _ = try library.engine(for: graphs[0])
            XCTFail("was opened")
        } catch let error as MiniCPMVError {
            XCTAssertEqual(error.caseName, "notEnoughMemory")
            XCTAssertTrue(error.sentence.contains("vision needs 400 bytes, 449 are left"))
        }
    }

    func testAFailedPlacementDoesNotHideTheMemory() async throws {
        let (library, graphs) = try library(ScriptedPackages()) { 10 }
        do {
            try await library.load(graphs[1])
            XCTFail("was opened")
        } catch let error as MiniCPMVError {
            XCTAssertEqual(error.caseName, "notEnoughMemory")
        }
    }
}

/// Memory of which each open package takes its weights.
private final class Free: @unchecked Sendable {
    private let total: Int
    private weak var library: EngineLibrary?

    init(_ total: Int) {
        self.total = total
    }

    func watch(_ library: EngineLibrary) {
        self.library = library
    }

    func bytes(_ packages: ScriptedPackages) -> Int {
        let open = library?.openPackages ?? []
        return total - (open.contains("vision") ? 400 : 0) - (open.contains("decoder") ? 600 : 0)
    }
}

extension Manifest {
    /// The same with other packages.
    func with(graphs: [GraphSpec]) -> Manifest {
        Manifest(
            schemaVersion: schemaVersion, format: format, model: model,
            architecture: architecture, preprocessing: preprocessing, prompt: prompt,
            generation: generation, decoding: decoding, graphs: graphs, hostTables: hostTables,
            recipe: recipe, source: source, tools: tools, files: files)
    }
}
