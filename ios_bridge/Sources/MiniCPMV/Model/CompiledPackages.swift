import Foundation

/// A folder of compiled packages, each under the checksum of what it was compiled from.
struct CompiledPackages: Sendable {
    let folder: URL

    /// - Parameter folder: made when something is put into it.
    init(in folder: URL) {
        self.folder = folder.appendingPathComponent("compiled", isDirectory: true)
    }

    /// The compiled package of `graph`, compiled by `compile` when there is none.
    ///
    /// - Parameters:
    ///   - graph: a package of `bundle`.
    ///   - compile: gets the package, gives a folder that is moved into this one's place.
    func url(
        of graph: GraphSpec, in bundle: ModelBundle, compile: (URL) async throws -> URL
    ) async throws -> URL {
        try await Self.place(location(of: graph, in: bundle)) {
            try await PackageFolder(graph, in: bundle).whole(compile)
        }
    }

    /// `target`, moved there from what `make` gives when it is absent.
    static func place(
        _ target: URL, _ make: () async throws -> URL
    ) async throws -> URL {
        let manager = FileManager.default
        if manager.fileExists(atPath: target.path) { return target }
        try manager.createDirectory(
            at: target.deletingLastPathComponent(), withIntermediateDirectories: true)
        let made = try await make()
        do {
            try manager.moveItem(at: made, to: target)
        } catch {
            // Somebody else has put it there meanwhile, which is as good.
            guard manager.fileExists(atPath: target.path) else { throw error }
            try? manager.removeItem(at: made)
        }
        return target
    }

    /// Where the compiled package of `graph` is, or will be.
    func location(of graph: GraphSpec, in bundle: ModelBundle) -> URL {
        folder.appendingPathComponent(
            "\(graph.name)-\(bundle.checksum(of: graph)).mlmodelc", isDirectory: true)
    }
}

extension ModelBundle {
    /// Over the names and checksums that the manifest lists for a package, in hexadecimal.
    func checksum(of graph: GraphSpec) -> String {
        let lines = files(of: graph).map { "\($0.path) \($0.sha256)\n" }.sorted().joined()
        return FileDigest.hexadecimal(of: Data(lines.utf8))
    }
}
