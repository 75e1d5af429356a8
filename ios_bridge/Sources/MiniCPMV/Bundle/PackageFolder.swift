import Foundation

/// A package as the folder that Core ML wants, wherever the package's files are.
struct PackageFolder {
    private let bundle: ModelBundle
    private let graph: GraphSpec
    private let files: [FileEntry]

    init(_ graph: GraphSpec, in bundle: ModelBundle) {
        self.bundle = bundle
        self.graph = graph
        files = bundle.files(of: graph)
    }

    /// Give `body` the package where it is whole, else a copy that is made in a temporary folder
    /// and removed afterwards; the system empties that folder should the app end before. On one
    /// volume of a device copies take no space: they share what they were made from.
    ///
    /// - Throws: `MiniCPMVError.missingFile`, or what `body` throws.
    func whole<Result>(
        _ body: (URL) async throws -> Result
    ) async throws -> Result {
        if let url = try bundle.existing(graph.path), holdsAllFiles(url) {
            return try await body(url)
        }
        let name = URL(fileURLWithPath: graph.path).lastPathComponent
        let folder = FileManager.default.temporaryDirectory
            .appendingPathComponent(UUID().uuidString, isDirectory: true)
        defer { try? FileManager.default.removeItem(at: folder) }
        let package = folder.appendingPathComponent(name, isDirectory: true)
        try assemble(package)
        return try await body(package)
    }

    private func holdsAllFiles(_ package: URL) -> Bool {
        files.allSatisfy { file in
            let inside = file.path.dropFirst(graph.path.count)
            let url = inside.isEmpty ? package : package.appendingPathComponent(String(inside))
            return BundleFile.size(at: url) == file.size
        }
    }

    private func assemble(_ package: URL) throws {
        let manager = FileManager.default
        for file in files {
            let inside = String(file.path.dropFirst(graph.path.count))
            let target = package.appendingPathComponent(inside)
            try manager.createDirectory(
                at: target.deletingLastPathComponent(), withIntermediateDirectories: true)
            try manager.copyItem(at: try bundle.url(of: file.path), to: target)
        }
    }
}

extension ModelBundle {
    /// The manifest's entries of a package.
    func files(of graph: GraphSpec) -> [FileEntry] {
        let prefix = graph.path + "/"
        return manifest.files.filter { $0.path == graph.path || $0.path.hasPrefix(prefix) }
    }

    /// The file or package of that path, when there is something.
    func existing(_ path: String) throws -> URL? {
        try location.url(of: path).flatMap {
            FileManager.default.fileExists(atPath: $0.path) ? $0 : nil
        }
    }
}
