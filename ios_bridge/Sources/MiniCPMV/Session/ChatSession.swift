/// A conversation with a bundle: messages in, a stream of text out.
///
/// The key/value cache is kept between answers: whatever a prompt shares with the last one, token
/// by token and picture by picture, is not computed again. Answers are written one after the
/// other, off the main thread; ask for the next one when the last has ended.
public actor ChatSession {
    private let model: ChatModel
    private var runner: PromptRunner
    private var history: [CutMessage] = []

    private let executor = QueueExecutor(label: "MiniCPMV.ChatSession")

    /// Answers are written on this session's own queue.
    public nonisolated var unownedExecutor: UnownedSerialExecutor {
        executor.asUnownedSerialExecutor()
    }

    init(_ model: ChatModel) throws {
        self.model = model
        runner = try PromptRunner(model)
    }

    /// Ask the next question of the conversation; the answer becomes part of it when it ends. A
    /// question that fails, or is cancelled before its answer began, does not.
    ///
    /// - Parameters:
    ///   - question: text, put after the pictures.
    ///   - images: pictures that the question is about.
    ///   - video: frames that the question is about.
    ///   - options: for this answer.
    /// - Returns: a stream that throws `MiniCPMVError`.
    public nonisolated func stream(
        _ question: String, images: [RGBImage] = [], video: VideoFrames? = nil,
        options: ChatOptions = ChatOptions()
    ) -> Answer {
        let parts =
            images.map(ChatMessage.Part.image) + (video.map { [.video($0)] } ?? [])
            + [.text(question)]
        let answer = Answer()
        Task { await go(on: ChatMessage(.user, parts), options, answer) }
        return answer
    }

    /// Answer a conversation of one's own keeping; the session's is neither used nor changed.
    ///
    /// - Parameters:
    ///   - messages: the whole conversation.
    ///   - options: for this answer.
    /// - Returns: a stream that throws `MiniCPMVError`.
    public nonisolated func stream(
        messages: [ChatMessage], options: ChatOptions = ChatOptions()
    ) -> Answer {
        let answer = Answer()
        Task { await reply(to: messages, options, answer) }
        return answer
    }

    /// Set the opening of the conversation, such as a system message; forgets what was said.
    ///
    /// - Throws: `MiniCPMVError` for a message that cannot be.
    public func begin(with messages: [ChatMessage], maxSliceNums: Int? = nil) throws {
        history = try messages.map {
            try CutMessage($0, model.processor, maxSliceNums: maxSliceNums)
        }
    }

    /// Forget the conversation, and what the cache holds.
    ///
    /// - Throws: what opening the decoder throws.
    public func reset() throws {
        history = []
        try runner.reset()
    }

    private func go(on message: ChatMessage, _ options: ChatOptions, _ answer: Answer) {
        finish(answer, options) { writer in
            let asked = try CutMessage(
                message, model.processor, maxSliceNums: options.maxSliceNums,
                checkpoint: writer.checkpoint)
            let (reason, text) = try writer.write(history + [asked], &runner)
            let said = try CutMessage(
                ChatMessage(.assistant, text), model.processor, maxSliceNums: nil)
            history += [asked, said]
            return reason
        }
    }

    private func reply(to messages: [ChatMessage], _ options: ChatOptions, _ answer: Answer) {
        finish(answer, options) { writer in
            let cut = try messages.map {
                try CutMessage(
                    $0, model.processor, maxSliceNums: options.maxSliceNums,
                    checkpoint: writer.checkpoint)
            }
            return try writer.write(cut, &runner).reason
        }
    }

    private func finish(
        _ answer: Answer, _ options: ChatOptions,
        _ write: (AnswerWriter) throws -> FinishReason
    ) {
        do {
            let writer = try AnswerWriter(model, options, answer)
            answer.finish(try write(writer))
        } catch is CancellationError {
            answer.finish(.cancelled)
        } catch {
            answer.fail(error)
        }
    }
}
