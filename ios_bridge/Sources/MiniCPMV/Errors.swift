import Foundation

/// Everything that `MiniCPMV` refuses. Each case carries one sentence: what was given, what is
/// allowed, what to do. The case says who can act on it.
public enum MiniCPMVError: Error, Equatable, Sendable {
    /// The folder is no bundle, or lacks a file that its manifest lists.
    case missingFile(String)
    /// The manifest cannot be read or contradicts its schema.
    case invalidManifest(String)
    /// The manifest has another schema version than this package reads.
    case unsupportedVersion(String)
    /// The manifest names a path that leads out of the bundle.
    case unsafePath(String)
    /// A file's size or checksum differs from the manifest.
    case damagedFile(String)
    /// The disk has no room for the bundle.
    case noSpace(String)
    /// The tokenizer cannot be read, or does not fit the manifest.
    case invalidTokenizer(String)
    /// The messages of a conversation say something that the chat format cannot.
    case invalidMessage(String)
    /// An option or a command-line argument is out of its range.
    case invalidOption(String)
    /// A picture has a size that cannot be worked with.
    case invalidPicture(String)
    /// A video has no frames, or too many.
    case invalidVideo(String)
    /// The prompt leaves no room for an answer in the context.
    case contextFull(String)
    /// A package does not run, or gives what is no result.
    case modelFailure(String)
    /// The memory that the system leaves to the app does not hold a package.
    case notEnoughMemory(String)

    /// The sentence, ready to be shown.
    public var sentence: String {
        switch self {
        case .missingFile(let text), .invalidManifest(let text), .unsupportedVersion(let text),
            .unsafePath(let text), .damagedFile(let text), .noSpace(let text),
            .invalidTokenizer(let text),
            .invalidMessage(let text), .invalidOption(let text),
            .invalidPicture(let text), .invalidVideo(let text), .contextFull(let text),
            .modelFailure(let text), .notEnoughMemory(let text):
            text
        }
    }
}

extension MiniCPMVError: LocalizedError {
    /// The sentence of the case.
    public var errorDescription: String? { sentence }
}
