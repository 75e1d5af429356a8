import Foundation

/// Where the names in a manifest lie on disk, and that they stay inside the bundle.
enum BundlePaths {
    /// Longer chains of links are taken for loops.
    private static let maxLinks = 40

    /// The path of `name` inside `folder`; refuses absolute paths, "..", links that lead out, and
    /// names of the folder itself.
    ///
    /// - Throws: `MiniCPMVError.unsafePath`.
    static func resolve(_ name: String, inside folder: URL) throws -> URL {
        try check(name)
        if let root = withoutLinks(folder.path), let path = withoutLinks(root + "/" + name),
            path.hasPrefix(root == "/" ? root : root + "/")
        {
            return URL(fileURLWithPath: path)
        }
        throw leadsOut(name)
    }

    /// Refuse a name that is absolute, has "..", or is that of the folder itself, wherever it is
    /// looked for.
    ///
    /// - Throws: `MiniCPMVError.unsafePath`.
    static func check(_ name: String) throws {
        let relative = name.hasPrefix("/") ? name.dropFirst() : name[...]
        let parts = relative.split(separator: "/", omittingEmptySubsequences: false)
        if parts.contains("") || parts.contains(".") {
            throw MiniCPMVError.unsafePath(
                "\(Manifest.fileName) names '\(name)', which is not a file's path; do not use it.")
        }
        guard !name.hasPrefix("/"), !parts.contains(".."), !name.utf8.contains(0),
            !name.utf8.contains(UInt8(ascii: "\\"))
        else { throw leadsOut(name) }
    }

    private static func leadsOut(_ name: String) -> MiniCPMVError {
        .unsafePath(
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
