import Foundation

extension ModelBundle {
    /// Unpack a bundle from a ZIP archive into `folder`, which is made if it is absent.
    ///
    /// Only files that the manifest lists are written, each whole or not at all; those that are
    /// there with the listed size are kept, so an interrupted unpacking can be run again.
    /// `BundleVerifier` then checks what was written. The archive may hold the bundle's files or
    /// one folder with them.
    ///
    /// - Parameter progress: called after each file; what it throws ends the unpacking.
    /// - Throws: `MiniCPMVError`: `damagedFile`, `missingFile`, `noSpace`, or what `init(folder:)`
    ///   throws; `CancellationError` when the task was cancelled.
    public static func unpack(
        zip: URL, to folder: URL, progress: (VerificationProgress) throws -> Void = { _ in }
    ) throws -> ModelBundle {
        let archive = try ZipArchive(zip)
        let manifests = archive.entries.values.filter {
            $0.path == Manifest.fileName || $0.path.hasSuffix("/" + Manifest.fileName)
        }
        guard let entry = manifests.min(by: { $0.path.utf8.count < $1.path.utf8.count }) else {
            throw MiniCPMVError.missingFile(
                "\(zip.path) holds no bundle: it has no \(Manifest.fileName); "
                    + "zip the folder that `python -m export` printed.")
        }
        guard entry.size <= maxManifestSize else { throw ZipArchive.damaged(zip.path) }
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        try write(entry, of: archive, to: folder.appendingPathComponent(Manifest.fileName))
        let bundle = try ModelBundle(folder: folder)
        let prefix = String(entry.path.dropLast(Manifest.fileName.count))
        try bundle.unpackFiles(of: archive, prefix, to: folder, progress)
        return bundle
    }

    private static let maxManifestSize = 1 << 26

    private func unpackFiles(
        of archive: ZipArchive, _ prefix: String, to folder: URL,
        _ progress: (VerificationProgress) throws -> Void
    ) throws {
        let missing = try manifest.files.filter {
            try BundleFile.size(at: url(of: $0.path)) != $0.size
        }
        let entries = try missing.map { try entry(for: $0, in: archive, prefix) }
        let needed = Self.sum(entries.map(\.size))
        try Self.checkSpace(needed, in: folder)
        let total = Self.sum(manifest.files.map(\.size))
        var done = total - needed
        for (file, entry) in zip(missing, entries) {
            try Task.checkCancellation()
            let url = try url(of: file.path)
            try FileManager.default.createDirectory(
                at: url.deletingLastPathComponent(), withIntermediateDirectories: true)
            try Self.write(entry, of: archive, to: url)
            done += entry.size
            try progress(VerificationProgress(done: done, total: total))
        }
    }

    private func entry(
        for file: FileEntry, in archive: ZipArchive, _ prefix: String
    ) throws -> ZipArchive.Entry {
        guard let entry = archive.entries[prefix + file.path] else {
            throw MiniCPMVError.missingFile(
                "The archive lacks \(file.path); download it again.")
        }
        guard entry.size == file.size else {
            throw MiniCPMVError.damagedFile(
                "\(file.path) has \(entry.size) bytes, the manifest says \(file.size); "
                    + "download the archive again.")
        }
        return entry
    }

    /// The sum of sizes, which may be anything; no more than an `Int` holds.
    private static func sum(_ sizes: [Int]) -> Int {
        sizes.reduce(0) { sum, size in
            let (total, overflow) = sum.addingReportingOverflow(max(size, 0))
            return overflow ? .max : total
        }
    }

    private static func checkSpace(_ needed: Int, in folder: URL) throws {
        let attributes = try FileManager.default.attributesOfFileSystem(forPath: folder.path)
        guard let free = (attributes[.systemFreeSize] as? NSNumber)?.intValue, free < needed else {
            return
        }
        throw MiniCPMVError.noSpace(
            "The bundle needs \(needed) more bytes and \(free) are free; free some space.")
    }

    private static func write(
        _ entry: ZipArchive.Entry, of archive: ZipArchive, to url: URL
    ) throws {
        let partial = url.appendingPathExtension("partial")
        guard FileManager.default.createFile(atPath: partial.path, contents: nil) else {
            throw CocoaError(.fileWriteUnknown)
        }
        let file = try FileHandle(forWritingTo: partial)
        do {
            defer { try? file.close() }
            try archive.read(entry) { try file.write(contentsOf: Data($0)) }
        } catch {
            try? FileManager.default.removeItem(at: partial)
            throw error
        }
        var isFolder: ObjCBool = false
        if FileManager.default.fileExists(atPath: url.path, isDirectory: &isFolder) {
            guard !isFolder.boolValue else {  // of the user's, who knows what it holds
                try? FileManager.default.removeItem(at: partial)
                throw MiniCPMVError.unsafePath(
                    "\(url.path) is a folder where a file of the bundle belongs; "
                        + "unpack into another folder.")
            }
            try FileManager.default.removeItem(at: url)
        }
        try FileManager.default.moveItem(at: partial, to: url)
    }
}
