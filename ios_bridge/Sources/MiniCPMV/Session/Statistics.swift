/// What one answer took. Times are in seconds.
public struct Statistics: Sendable, Hashable {
    /// Positions of the prompt, those of pictures included.
    public internal(set) var promptTokens = 0
    /// Positions of the prompt that the cache already held.
    public internal(set) var reusedTokens = 0
    /// Tokens of the answer.
    public internal(set) var newTokens = 0
    /// Time to turn pictures into embeddings.
    public internal(set) var visionSeconds = 0.0
    /// Time to run the prompt through the decoder.
    public internal(set) var prefillSeconds = 0.0
    /// Time to write the answer.
    public internal(set) var decodeSeconds = 0.0
    /// Time from the request to the first token of the answer, pictures and prompt included.
    public internal(set) var secondsToFirstToken = 0.0
    /// Most memory that the app has held until the answer ended, in bytes, mapped files included.
    public internal(set) var peakMemoryBytes = 0

    /// Tokens of the answer a second, 0 before the first.
    public var tokensPerSecond: Double {
        decodeSeconds > 0 ? Double(newTokens) / decodeSeconds : 0
    }
}

/// Why an answer ended.
public enum FinishReason: String, Sendable {
    /// The model ended it.
    case stop
    /// It has as many tokens as were allowed.
    case length
    /// The conversation fills the context.
    case contextFull = "context_full"
    /// It was cancelled.
    case cancelled
}
