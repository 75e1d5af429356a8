import Foundation

/// Where the files of a bundle are: a folder, several, or wherever a downloader has put them.
public protocol BundleLocation: Sendable {
    /// Names the place in messages.
    var description: String { get }

    /// The file or package with a path of the manifest; nil, or a place where nothing is, when it
    /// is not there. Paths are relative and lead nowhere else: `..` is refused before.
    ///
    /// - Throws: `MiniCPMVError.unsafePath` for a link that leads out.
    func url(of path: String) throws -> URL?
}

/// A bundle in one folder.
public struct BundleFolder: BundleLocation {
    /// The folder.
    public let folder: URL

    /// The bundle in `folder`.
    public init(_ folder: URL) {
        self.folder = folder
    }

    /// The folder's path.
    public var description: String { folder.path }

    /// The file of that path in the folder, whether or not it exists.
    public func url(of path: String) throws -> URL? {
        try BundlePaths.resolve(path, inside: folder)
    }
}

/// A bundle whose files are spread over several folders, each under its path in the bundle: asset
/// packs that an app has unpacked itself, say. The files of one package may be spread, too.
public struct BundleFolders: BundleLocation {
    /// The folders; a path that more than one has is taken from the first.
    public let folders: [URL]

    /// The bundle in `folders`.
    public init(_ folders: [URL]) {
        self.folders = folders
    }

    /// The folders' paths.
    public var description: String { folders.map(\.path).joined(separator: ", ") }

    /// The file of that path in the first folder that has it.
    public func url(of path: String) throws -> URL? {
        let candidates = try folders.map { try BundlePaths.resolve(path, inside: $0) }
        return candidates.first { FileManager.default.fileExists(atPath: $0.path) }
    }
}

/// A bundle of single files under names of their own: what `BADownloadManager` delivers into an
/// app group's container, one file a download.
public struct BundleFiles: BundleLocation {
    /// The files, by path in the bundle; `manifest.json` is one of them.
    public let files: [String: URL]

    /// The bundle of `files`.
    public init(_ files: [String: URL]) {
        self.files = files
    }

    /// Says how many files there are.
    public var description: String { "The list of \(files.count) files" }

    /// The file listed under that path.
    public func url(of path: String) throws -> URL? { files[path] }
}
