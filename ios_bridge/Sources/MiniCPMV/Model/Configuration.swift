import Foundation

/// How a bundle is opened; the defaults suit an app.
public struct Configuration: Sendable {
    /// Which files are compared with their checksums.
    public enum Verification: Sendable, Equatable {
        /// Those that were not found intact before, or have changed since.
        case changed
        /// All of them.
        case all
        /// None: for bundles inside a signed app.
        case none
    }

    /// Which compute units packages may run on.
    public var policy: ComputePolicy
    /// The memory that must stay free.
    public var memory: MemoryBudget
    /// Which files are compared with their checksums.
    public var verification: Verification
    /// Where compiled packages and the list of intact files are kept; nil for a folder of this
    /// package in the app's caches.
    public var cacheFolder: URL?
    /// Whether `load` opens all packages; otherwise `prewarm()` or the first answer does.
    public var prewarms: Bool
    /// What runs the packages; nil for Core ML.
    public var packages: (any PackageOpener)?
    /// Called at every change of state, from any thread.
    public var progress: (@Sendable (ModelState) -> Void)?

    /// The defaults, unless given.
    public init(
        policy: ComputePolicy = ComputePolicy(), memory: MemoryBudget = MemoryBudget(),
        verification: Verification = .changed, cacheFolder: URL? = nil, prewarms: Bool = true,
        packages: (any PackageOpener)? = nil,
        progress: (@Sendable (ModelState) -> Void)? = nil
    ) {
        self.policy = policy
        self.memory = memory
        self.verification = verification
        self.cacheFolder = cacheFolder
        self.prewarms = prewarms
        self.packages = packages
        self.progress = progress
    }

    /// The folder of `cacheFolder`, made if it is absent.
    func existingCacheFolder() throws -> URL {
        let manager = FileManager.default
        let folder: URL
        if let cacheFolder {
            folder = cacheFolder
        } else {
            let caches = try manager.url(
                for: .cachesDirectory, in: .userDomainMask, appropriateFor: nil, create: true)
            folder = caches.appendingPathComponent("MiniCPMV", isDirectory: true)
        }
        try manager.createDirectory(at: folder, withIntermediateDirectories: true)
        return folder
    }

    /// What runs the packages of `bundle`.
    func opener(of bundle: ModelBundle) throws -> any PackageOpener {
        if let packages { return packages }
        #if canImport(CoreML)
            return try CoreMLPackages(bundle, cacheFolder: existingCacheFolder())
        #else
            throw MiniCPMVError.invalidOption(
                "There is no Core ML on this system; give `packages` in the configuration.")
        #endif
    }
}
