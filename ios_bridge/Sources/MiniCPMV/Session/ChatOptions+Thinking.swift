extension ChatOptions {
    /// Options by what most apps set.
    ///
    /// - Parameters:
    ///   - enableThinking: whether the model thinks first, between `<think>` and `</think>`.
    ///   - sampling: how tokens are chosen, and how many at most.
    ///   - maxSliceNums: slices a picture at most; nil takes the published number.
    public init(
        enableThinking: Bool, sampling: SamplingOptions = SamplingOptions(),
        maxSliceNums: Int? = nil
    ) {
        self.init(
            prompt: PromptOptions(enableThinking: enableThinking), sampling: sampling,
            maxSliceNums: maxSliceNums)
    }
}
