import Synchronization

/// Where a model says what it does; everyone who listens hears every change.
final class StatusBoard: Sendable {
    private struct Board: Sendable {
        var state = ModelState.unloaded
        var listeners: [Int: AsyncStream<ModelState>.Continuation] = [:]
        var count = 0
    }

    private let board = Mutex(Board())
    private let report: (@Sendable (ModelState) -> Void)?

    init(_ report: (@Sendable (ModelState) -> Void)?) {
        self.report = report
    }

    var state: ModelState { board.withLock { $0.state } }

    func show(_ state: ModelState) {
        let listeners = board.withLock { board in
            board.state = state
            return Array(board.listeners.values)
        }
        report?(state)
        for listener in listeners { listener.yield(state) }
    }

    /// The state now, then each change, until the reader stops.
    func states() -> AsyncStream<ModelState> {
        let (stream, continuation) = AsyncStream.makeStream(
            of: ModelState.self, bufferingPolicy: .bufferingNewest(64))
        let number = board.withLock { board in
            board.count += 1
            board.listeners[board.count] = continuation
            continuation.yield(board.state)
            return board.count
        }
        continuation.onTermination = { [weak self] _ in
            self?.board.withLock { _ = $0.listeners.removeValue(forKey: number) }
        }
        return stream
    }
}
