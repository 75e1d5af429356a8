import Synchronization

/// The stream of an answer's text: iterate for pieces as they are written.
///
/// Iterate once. The answer is written whether or not it is read; leaving the loop early cancels
/// it, as does cancelling the task that reads.
public final class Answer: AsyncSequence, Sendable {
    /// A piece of text.
    public typealias Element = String

    private struct Progress {
        var statistics = Statistics()
        var tokenIds: [Int] = []
        var finishReason: FinishReason?
        var isCancelled = false
        var isOver = false
    }

    private let progress = Mutex(Progress())
    private let pieces: AsyncThrowingStream<String, any Error>
    private let continuation: AsyncThrowingStream<String, any Error>.Continuation

    init() {
        (pieces, continuation) = AsyncThrowingStream.makeStream(of: String.self)
        continuation.onTermination = { [weak self] termination in
            if case .cancelled = termination { self?.cancel() }
        }
    }

    /// Pieces of the text, as they are written.
    public func makeAsyncIterator() -> Iterator {
        Iterator(pieces: pieces.makeAsyncIterator(), reader: Reader(answer: self))
    }

    /// Gives the pieces; when it is dropped, the answer is no longer wanted.
    public struct Iterator: AsyncIteratorProtocol {
        var pieces: AsyncThrowingStream<String, any Error>.Iterator
        let reader: Reader

        /// The next piece; nil when the answer has ended.
        public mutating func next() async throws -> String? {
            try await pieces.next()
        }
    }

    /// Cancels the answer at the end of its life, which is that of the iterator's last copy.
    final class Reader: Sendable {
        private let answer: Answer

        init(answer: Answer) {
            self.answer = answer
        }

        deinit {
            answer.cancel()
        }
    }

    /// The whole text, once it is written.
    ///
    /// - Throws: what iterating throws.
    public func text() async throws -> String {
        var text = ""
        for try await piece in self { text += piece }
        return text
    }

    /// End the answer before the next token, view or block; what was computed stays in the cache.
    /// An answer that is over stays as it is.
    public func cancel() {
        progress.withLock { $0.isCancelled = $0.isCancelled || !$0.isOver }
    }

    /// Counts and times so far.
    public var statistics: Statistics { progress.withLock { $0.statistics } }

    /// The answer's tokens so far.
    public var tokenIds: [Int] { progress.withLock { $0.tokenIds } }

    /// Why the answer ended; nil while it is being written, or when it failed.
    public var finishReason: FinishReason? { progress.withLock { $0.finishReason } }

    /// Whether it was cancelled before it was over.
    public var isCancelled: Bool { progress.withLock { $0.isCancelled } }

    func yield(_ piece: String) {
        if !piece.isEmpty { continuation.yield(piece) }
    }

    func append(_ token: Int) {
        progress.withLock { $0.tokenIds.append(token) }
    }

    func set(_ statistics: Statistics) {
        progress.withLock { $0.statistics = statistics }
    }

    func finish(_ reason: FinishReason) {
        progress.withLock {
            $0.finishReason = reason
            $0.isOver = true
        }
        continuation.finish()
    }

    func fail(_ error: any Error) {
        progress.withLock { $0.isOver = true }
        continuation.finish(throwing: error)
    }
}
