// Managed asset packs came with the systems of 2025, whose Xcode has this compiler.
#if canImport(BackgroundAssets) && (compiler(>=6.2) || STUBS)
    import BackgroundAssets
    import Foundation
    import System

    /// A bundle in the managed asset packs of an app. The packs share one tree of paths, so a
    /// bundle may be spread over as many as one likes; they must have been downloaded before.
    ///
    /// The system's addresses are asked for anew each time: they are good for one process.
    @available(iOS 26, macOS 26, *)
    public struct AssetPackLocation: BundleLocation {
        /// The bundle's folder in the tree of all packs; empty when its files are at the top.
        public let folder: String

        /// The bundle in `folder` of the packs.
        public init(folder: String = "") {
            self.folder = folder
        }

        /// Names the folder in the packs.
        public var description: String { "The asset packs' folder '\(folder)'" }

        /// What the system has under that path. A package is asked for as a whole: the address of
        /// one of its files need not open the others.
        public func url(of path: String) throws -> URL? {
            do {
                let whole = folder.isEmpty ? path : "\(folder)/\(path)"
                return try AssetPackManager.shared.url(for: FilePath(whole))
            } catch {
                throw MiniCPMVError.missingFile(
                    "\(description) gives no \(path) (\(error.localizedDescription)); wait for "
                        + "ensureLocalAvailability of each pack.")
            }
        }
    }
#endif
