import Foundation

/// An opened bundle: what all conversations with it share.
public struct ChatModel: Sendable {
    /// What the bundle holds.
    public let manifest: Manifest
    /// The bundle's tokenizer.
    public let tokenizer: Tokenizer
    /// The file of a path of the manifest.
    let locate: @Sendable (String) throws -> URL
    let encoder: PromptEncoder
    let processor: ImagePreprocessor
    let engines: any EngineSource

    /// Read the tokenizer and the tables; packages are opened when `engines` wants to.
    ///
    /// - Throws: `MiniCPMVError`: `invalidTokenizer`, `invalidManifest`.
    public init(bundle: ModelBundle, engines: any EngineSource) throws {
        let path = try bundle.url(of: "tokenizer/tokenizer.json")
        try self.init(
            manifest: bundle.manifest, tokenizer: Tokenizer(contentsOf: path), engines: engines,
            locate: bundle.url)
    }

    init(
        manifest: Manifest, tokenizer: Tokenizer, engines: any EngineSource,
        locate: @escaping @Sendable (String) throws -> URL
    ) throws {
        try manifest.checkNumbers()
        try manifest.checkTables()
        self.manifest = manifest
        self.tokenizer = tokenizer
        self.engines = engines
        self.locate = locate
        encoder = try PromptEncoder(
            tokenizer: tokenizer, prompt: manifest.prompt, preprocessing: manifest.preprocessing)
        processor = ImagePreprocessor(manifest.preprocessing)
    }

    /// Start a conversation with a cache of its own.
    ///
    /// - Throws: what opening the decoder throws.
    public func chat() throws -> ChatSession {
        try ChatSession(self)
    }
}
