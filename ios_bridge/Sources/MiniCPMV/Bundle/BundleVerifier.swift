import Foundation

/// Which files of a bundle were found intact. Save it (it is `Codable`) to go on after an
/// interruption, or to skip files that have not changed since the last start.
public struct VerificationState: Codable, Equatable, Sendable {
    /// SHA-256 of the manifest that the files were checked against.
    public let manifestSHA256: String
    /// Files found intact, by path in the bundle.
    public private(set) var verified: [String: FileStamp] = [:]

    /// Nothing verified yet.
    public init(of bundle: ModelBundle) {
        manifestSHA256 = bundle.manifestSHA256
    }

    fileprivate mutating func record(_ path: String, _ stamp: FileStamp) {
        verified[path] = stamp
    }
}

/// How far a verification is; bytes.
public struct VerificationProgress: Equatable, Sendable {
    /// Bytes checked, those of earlier runs included.
    public let done: Int
    /// Bytes of all files.
    public let total: Int
}

/// Checks every file of a bundle: that it is there, with the listed size and SHA-256.
public struct BundleVerifier: Sendable {
    /// The bundle.
    public let bundle: ModelBundle
    /// What was found intact so far, also after an error or a cancellation.
    public private(set) var state: VerificationState

    /// - Parameter state: of an earlier run; ignored when it is of another bundle. A file counts
    ///   as verified while its size and its time of change stay as they were.
    public init(_ bundle: ModelBundle, resuming state: VerificationState? = nil) {
        self.bundle = bundle
        let isOurs = state?.manifestSHA256 == bundle.manifestSHA256
        self.state = (isOurs ? state : nil) ?? VerificationState(of: bundle)
    }

    /// Verify what is not verified yet.
    ///
    /// - Parameter progress: called after every megabyte and every file; what it throws ends the
    ///   verification.
    /// - Throws: `MiniCPMVError` (`missingFile`, `damagedFile`, `unsafePath`) at the first file
    ///   that is not intact; `CancellationError` when the task was cancelled.
    public mutating func verify(
        progress: (VerificationProgress) throws -> Void = { _ in }
    ) throws {
        let total = bundle.manifest.files.reduce(0) { $0 &+ $1.size }
        var done = 0
        for entry in bundle.manifest.files {
            try Task.checkCancellation()
            try verify(entry) { count in
                try Task.checkCancellation()
                try progress(VerificationProgress(done: done + count, total: total))
            }
            done += entry.size
            try progress(VerificationProgress(done: done, total: total))
        }
    }

    private mutating func verify(_ entry: FileEntry, progress: (Int) throws -> Void) throws {
        let url = try bundle.url(of: entry.path)
        guard let stamp = BundleFile.stamp(at: url) else {
            throw bundle.missing(entry.path)
        }
        if state.verified[entry.path] == stamp { return }
        guard stamp.size == entry.size else {
            throw MiniCPMVError.damagedFile(
                "\(entry.path) has \(stamp.size) bytes, the manifest says \(entry.size); "
                    + "copy or export the bundle again.")
        }
        var read = 0
        let digest = try FileDigest.hexadecimal(ofFileAt: url) { count in
            read += count
            try progress(read)
        }
        guard digest == entry.sha256 else {
            throw MiniCPMVError.damagedFile(
                "\(entry.path) does not match its checksum: the file was changed or damaged; "
                    + "copy or export the bundle again.")
        }
        state.record(entry.path, stamp)
    }
}
