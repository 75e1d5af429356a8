import Foundation
import Synchronization

/// A bundle that answers questions about pictures and videos.
///
///     let model = try await MiniCPMV.load(bundle: url)
///     let session = try model.chat()
///     for try await piece in session.stream("What is this?", images: [picture]) { print(piece) }
///
/// Safe from any thread. Packages are shared by all sessions; each session has a cache of its own.
public final class MiniCPMV: Sendable {
    /// What all conversations share: manifest, tokenizer, tables.
    public let model: ChatModel
    /// How the bundle was opened.
    public let configuration: Configuration
    let manifestSHA256: String
    let opener: any PackageOpener
    let library: EngineLibrary
    private let board: StatusBoard
    private let loading = Mutex<Task<Void, any Error>?>(nil)

    init(
        _ model: ChatModel, _ library: EngineLibrary, _ opener: any PackageOpener,
        _ configuration: Configuration, _ board: StatusBoard, manifestSHA256: String
    ) {
        self.model = model
        self.configuration = configuration
        self.library = library
        self.opener = opener
        self.board = board
        self.manifestSHA256 = manifestSHA256
    }

    /// Open the bundle in the folder `bundle`: verify it, compile its packages for this device
    /// (minutes, once), open them.
    ///
    /// - Throws: `MiniCPMVError`; `CancellationError` when the task was cancelled. What was
    ///   verified and compiled until then is kept.
    public static func load(
        bundle folder: URL, configuration: Configuration = Configuration()
    ) async throws -> MiniCPMV {
        try await load(bundle: BundleFolder(folder), configuration: configuration)
    }

    /// Open a bundle that is not in one folder: in asset packs, or where a downloader put it.
    ///
    /// - Throws: as `load(bundle:configuration:)` of a folder.
    public static func load(
        bundle location: any BundleLocation, configuration: Configuration = Configuration()
    ) async throws -> MiniCPMV {
        let board = StatusBoard(configuration.progress)
        return try await load(ModelBundle(at: location), configuration, board)
    }

    /// Open the bundle in a ZIP archive, which is unpacked into `folder` as far as it is not yet.
    /// Remove the archive afterwards.
    ///
    /// - Throws: what `ModelBundle.unpack(zip:to:)` and `load(bundle:configuration:)` throw.
    public static func load(
        zip: URL, unpackingTo folder: URL, configuration: Configuration = Configuration()
    ) async throws -> MiniCPMV {
        let board = StatusBoard(configuration.progress)
        board.show(.unpacking(fraction: 0))
        let bundle = try ModelBundle.unpack(zip: zip, to: folder) { progress in
            board.show(
                .unpacking(fraction: Double(progress.done) / Double(max(progress.total, 1))))
        }
        return try await load(bundle, configuration, board)
    }

    private static func load(
        _ bundle: ModelBundle, _ configuration: Configuration, _ board: StatusBoard
    ) async throws -> MiniCPMV {
        let opener = try configuration.opener(of: bundle)
        try VerificationRecord(bundle, configuration).verify { done in
            board.show(.verifying(fraction: done))
        }
        let library = EngineLibrary(
            bundle.manifest, opener: opener, policy: configuration.policy,
            memory: configuration.memory)
        let model = MiniCPMV(
            try ChatModel(bundle: bundle, engines: library), library, opener, configuration, board,
            manifestSHA256: bundle.manifestSHA256)
        try await model.prepare()
        board.show(.unloaded)
        if configuration.prewarms { try await model.prewarm() }
        return model
    }

    /// What the model is doing.
    public var state: ModelState { board.state }

    /// The state now, then each change, until the loop ends.
    public var states: AsyncStream<ModelState> { board.states() }

    /// On what each package runs, and why not on something better.
    public var placements: [PackagePlacement] { library.placements }

    /// Start a conversation with a cache of its own.
    ///
    /// - Throws: what opening the decoder throws.
    public func chat() throws -> ChatSession {
        try model.chat()
    }

    /// Open all packages now, one after the other, each on the best compute unit that works, so
    /// that the first answer does not wait for it. Calls that come while one works wait for it.
    ///
    /// - Throws: `MiniCPMVError`: `modelFailure` or `notEnoughMemory`.
    public func prewarm() async throws {
        let task = loading.withLock { running in
            if let running { return running }
            let task = Task { try await self.openPackages() }
            running = task
            return task
        }
        defer { loading.withLock { if $0 == task { $0 = nil } } }
        try await withTaskCancellationHandler {
            try await task.value
        } onCancel: {
            task.cancel()
        }
    }

    /// Close all packages, and free their memory. Conversations that began before have lost their
    /// cache: start new ones with `chat()`, which opens the packages again.
    public func unload() {
        loading.withLock { running in
            running?.cancel()
            running = nil
        }
        library.close()
        board.show(.unloaded)
    }

    /// Compile the packages that are not compiled yet.
    func prepare() async throws {
        try await forEachPackage(
            show: { .compiling(package: $0, fraction: $1) }, library.prepare)
    }

    private func openPackages() async throws {
        do {
            try await forEachPackage(
                show: { .loading(package: $0, fraction: $1) }, library.load)
            try Task.checkCancellation()
            board.show(.ready)
        } catch {
            library.close()
            board.show(.unloaded)
            throw error
        }
    }

    private func forEachPackage(
        show: (String, Double) -> ModelState, _ step: (GraphSpec) async throws -> Void
    ) async throws {
        let graphs = model.manifest.graphs
        let total = max(graphs.reduce(0.0) { $0 + Double($1.weightBytes) }, 1)
        var done = 0.0
        for graph in graphs {
            try Task.checkCancellation()
            board.show(show(graph.name, done / total))
            try await step(graph)
            done += Double(graph.weightBytes)
        }
    }
}
