import Foundation

/// A bundle on disk: where it is, and the manifest that says what is in it.
public struct ModelBundle: Sendable {
    /// Where its files are.
    public let location: any BundleLocation
    /// What it holds.
    public let manifest: Manifest
    /// SHA-256 of the manifest's file, in hexadecimal: tells one bundle from another.
    public let manifestSHA256: String

    /// Read and check the manifest of the bundle in `folder`. The files that it lists are not
    /// touched: `BundleVerifier` checks them.
    ///
    /// - Throws: `MiniCPMVError`: `missingFile`, `invalidManifest`, `unsupportedVersion` or
    ///   `unsafePath`.
    public init(folder: URL) throws {
        try self.init(at: BundleFolder(folder))
    }

    /// Read and check the manifest of a bundle whose files are somewhere else than in one folder.
    ///
    /// - Throws: as `init(folder:)`, and what `location` throws.
    public init(at location: any BundleLocation) throws {
        guard let path = try location.url(of: Manifest.fileName), BundleFile.size(at: path) != nil
        else {
            throw MiniCPMVError.missingFile(
                "\(location.description) is not a bundle: it has no \(Manifest.fileName); "
                    + "give the folder that `python -m export` printed.")
        }
        let data = try Data(contentsOf: path)
        let value = try Self.parse(data, path: path.path)
        self.location = location
        manifest = try Manifest(decoding: value)
        manifestSHA256 = FileDigest.hexadecimal(of: data)
        try checkListedOnce()
        try checkReferences()
        try checkTensorFiles()
    }

    /// The path of a file or package that the manifest names.
    ///
    /// - Throws: `MiniCPMVError`: `unsafePath` for a name that leads out of the bundle,
    ///   `missingFile` where the location knows of none.
    public func url(of name: String) throws -> URL {
        try BundlePaths.check(name)
        guard let url = try location.url(of: name) else { throw missing(name) }
        return url
    }

    func missing(_ name: String) -> MiniCPMVError {
        .missingFile(
            "\(location.description) lacks \(name); copy or export the bundle again.")
    }

    private static func parse(_ data: Data, path: String) throws -> JSONValue {
        let value: JSONValue
        do {
            value = try JSONValue(parsing: data)
        } catch {
            throw MiniCPMVError.invalidManifest(
                "\(path) is not valid JSON (\(error.reason) at byte \(error.offset)); "
                    + "export the bundle again.")
        }
        let version = value.object?["schema_version"]
        guard version == .integer(Manifest.schemaVersion) else {
            throw MiniCPMVError.unsupportedVersion(
                "\(path) has schema version \(version?.text ?? "None"), this program reads "
                    + "\(Manifest.schemaVersion); use a matching version of the program or "
                    + "export the bundle again.")
        }
        guard var fields = value.object, isSealed(data) else {
            throw MiniCPMVError.invalidManifest(
                "\(path) was changed after it was written: it does not have the digest that it "
                    + "begins with; copy or export the bundle again.")
        }
        fields["digest"] = nil
        return .object(fields)
    }

    /// Whether a manifest begins with the SHA-256 of all that comes after it.
    private static func isSealed(_ data: Data) -> Bool {
        let seal = Data("{\n \"digest\": \"".utf8)
        let end = seal.count + 64
        guard data.count >= end, data.prefix(seal.count) == seal else { return false }
        let rest = FileDigest.hexadecimal(of: Data(data.dropFirst(end)))
        return data[data.startIndex + seal.count..<data.startIndex + end] == Data(rest.utf8)
    }

    /// No two paths may be equal, or differ in letter case only: many disks take these for one.
    /// Bytes are compared, as in Python: equal strings of Swift may be other paths.
    private func checkListedOnce() throws {
        let listed = manifest.files.map { file in
            let folded = file.path.unicodeScalars.map(\.properties.lowercaseMapping).joined()
            return (key: Array(folded.utf8), bytes: Array(file.path.utf8), path: file.path)
        }.sorted { one, other in
            one.key == other.key
                ? one.bytes.lexicographicallyPrecedes(other.bytes)
                : one.key.lexicographicallyPrecedes(other.key)
        }
        for (one, other) in zip(listed, listed.dropFirst()) where one.key == other.key {
            let listing =
                one.bytes == other.bytes
                ? "'\(one.path)' twice"
                : "'\(one.path)' and '\(other.path)', which many disks take for one file"
            throw MiniCPMVError.invalidManifest(
                "\(Manifest.fileName) lists \(listing); export the bundle again.")
        }
    }

    /// Every file or package that the manifest uses must be inside and listed.
    private func checkReferences() throws {
        let listed = manifest.files.map(\.path)
        let used = manifest.graphs.map(\.path) + manifest.hostTables.files.map(\.path)
        for name in used {
            try BundlePaths.check(name)
            _ = try location.url(of: name)
            guard listed.contains(where: { $0 == name || $0.hasPrefix(name + "/") }) else {
                throw MiniCPMVError.invalidManifest(
                    "\(Manifest.fileName) uses '\(name)' without listing it; export again.")
            }
        }
    }

    /// A raw array's declared shape must be its file's size: it is mapped into memory as it is.
    private func checkTensorFiles() throws {
        for file in manifest.hostTables.files {
            let listed = manifest.files.first { $0.path == file.path }
            guard let size = file.byteCount, size == listed?.size else {
                let shape = file.shape.map(String.init).joined(separator: " × ")
                throw MiniCPMVError.invalidManifest(
                    "\(file.path) is \(shape) values of type \(file.dtype) and has "
                        + "\(listed?.size ?? -1) bytes in \(Manifest.fileName), which contradict "
                        + "each other; export the bundle again.")
            }
        }
    }
}

extension TensorFile {
    private static let itemSizes = ["int8": 1, "float16": 2, "float32": 4]

    /// Size in bytes; nil for an unknown type, a negative side or a product beyond 64 bits.
    var byteCount: Int? {
        guard var bytes = Self.itemSizes[dtype] else { return nil }
        for side in shape {
            let (product, overflow) = bytes.multipliedReportingOverflow(by: side)
            guard side >= 0, !overflow else { return nil }
            bytes = product
        }
        return bytes
    }
}

/// What the file system says about a file.
enum BundleFile {
    /// Size in bytes of the regular file at `url`, following links; nil when there is none.
    static func size(at url: URL) -> Int? { stamp(at: url)?.size }

    /// Size and time of the last change of the regular file at `url`; nil when there is none.
    static func stamp(at url: URL) -> FileStamp? {
        let path = BundlePaths.withoutLinks(url.path) ?? url.path
        guard let attributes = try? FileManager.default.attributesOfItem(atPath: path),
            attributes[.type] as? FileAttributeType == .typeRegular,
            let size = attributes[.size] as? NSNumber
        else { return nil }
        let changed = attributes[.modificationDate] as? Date
        return FileStamp(
            size: size.intValue, modified: changed?.timeIntervalSinceReferenceDate ?? 0)
    }
}

/// Tells whether a file is the one that was verified before.
public struct FileStamp: Codable, Equatable, Sendable {
    /// In bytes.
    public let size: Int
    /// Time of the last change, in seconds since 2001.
    public let modified: Double
}
