import Foundation

/// Verifies a bundle, and keeps the list of files found intact for the next start.
struct VerificationRecord {
    private let bundle: ModelBundle
    private let configuration: Configuration

    init(_ bundle: ModelBundle, _ configuration: Configuration) {
        self.bundle = bundle
        self.configuration = configuration
    }

    /// - Parameter progress: gets the share of the bytes that are verified.
    /// - Throws: what `BundleVerifier.verify` throws; the list is kept then too.
    func verify(progress: (Double) -> Void) throws {
        if configuration.verification == .none { return }
        let file = try configuration.existingCacheFolder()
            .appendingPathComponent("verified-\(bundle.manifestSHA256).json")
        let known = configuration.verification == .changed ? Self.read(file) : nil
        var verifier = BundleVerifier(bundle, resuming: known)
        defer {
            // A list that cannot be kept costs the next start time, nothing else.
            try? JSONEncoder().encode(verifier.state).write(to: file, options: .atomic)
        }
        progress(0)
        try verifier.verify { progress(Double($0.done) / Double(max($0.total, 1))) }
    }

    private static func read(_ file: URL) -> VerificationState? {
        guard let data = try? Data(contentsOf: file) else { return nil }
        return try? JSONDecoder().decode(VerificationState.self, from: data)
    }
}
