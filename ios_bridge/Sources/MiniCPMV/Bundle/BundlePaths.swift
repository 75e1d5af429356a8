import Foundation

/// Where the names in a manifest lie on disk, and that they stay inside the bundle.
enum BundlePaths {
    /// Longer chains of links are taken for loops.
    private static let maxLinks = 40

    /// The path of `name` inside `folder`; refuses absolute paths, "..", and links that lead out.
    ///
    /// - Throws: `MiniCPMVError.unsafePath`.
    static func resolve(_ name: String, inside folder: URL) throws -> URL {
        let parts = name.split(separator: "/", omittingEmptySubsequences: true)
        let isPlain =
            !name.hasPrefix("/") && !parts.contains("..") && !name.utf8.contains(0)
            && !name.utf8.contains(UInt8(ascii: "\\"))
        if isPlain, let root = withoutLinks(folder.path),
            let path = withoutLinks(root + "/" + name),
            path == root || path.hasPrefix(root == "/" ? root : root + "/")
        {
            return URL(fileURLWithPath: path)
        }
        throw MiniCPMVError.unsafePath(
            "\(Manifest.fileName) names '\(name)', which leaves the bundle; do not use it.")
    }

    /// The absolute path with every link followed, whether or not its end exists; nil for a loop.
    static func withoutLinks(_ path: String) -> String? {
        let manager = FileManager.default
        let absolute = path.hasPrefix("/") ? path : manager.currentDirectoryPath + "/" + path
        var pending: [Substring] = absolute.split(separator: "/").reversed()
        var resolved: [Substring] = []
        var links = 0
        while let part = pending.popLast() {
            if part == "." { continue }
            if part == ".." {
                _ = resolved.popLast()
                continue
            }
            let candidate = "/" + (resolved + [part]).joined(separator: "/")
            guard let target = try? manager.destinationOfSymbolicLink(atPath: candidate) else {
                resolved.append(part)
                continue
            }
            links += 1
            guard links <= maxLinks else { return nil }
            if target.hasPrefix("/") { resolved = [] }
            pending += target.split(separator: "/").reversed()
        }
        return "/" + resolved.joined(separator: "/")
    }
}
