import Foundation

/// Where the names in a manifest lie on disk, and that they stay inside the bundle.
enum BundlePaths {
    /// Longer chains of links are taken for loops.
    private static let maxLinks = 40

    /// The path of `name` inside `folder`; refuses absolute paths, "..", and links that lead out.
    ///
    /// - Throws: `MiniCPMVError.unsafePath`.
    static func resolve(_ name: String, inside folder: URL) throws -> URL {
        if isPlain(name), let root = withoutLinks(folder.path),
            let path = withoutLinks(root + "/" + name),
            path == root || path.hasPrefix(root == "/" ? root : root + "/")
        {
            return URL(fileURLWithPath: path)
        }
        throw leadsOut(name)
    }

    /// Refuse a name that is absolute or has "..", wherever it is looked for.
    ///
    /// - Throws: `MiniCPMVError.unsafePath`.
    static func check(_ name: String) throws {
        guard isPlain(name) else { throw leadsOut(name) }
    }

    private static func isPlain(_ name: String) -> Bool {
        !name.hasPrefix("/") && !name.split(separator: "/").contains("..")
            && !name.utf8.contains(0) && !name.utf8.contains(UInt8(ascii: "\\"))
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
