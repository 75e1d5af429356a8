/// Options of the published chat(); nil takes the bundle's default.
public struct SamplingOptions: Sendable, Hashable {
    /// 0 takes the best token.
    public var temperature: Double?
    /// Tokens to choose from, 0 for all.
    public var topK: Int?
    /// Share of the probability to choose from, above 0 and at most 1.
    public var topP: Double?
    /// Divides the scores of tokens that the answer already holds, 1 for none.
    public var repetitionPenalty: Double?
    /// Fixes the draws; nil draws differently each time.
    public var seed: UInt64?
    /// Tokens of the answer at most.
    public var maxNewTokens: Int?

    /// The bundle's defaults, unless given.
    public init(
        temperature: Double? = nil, topK: Int? = nil, topP: Double? = nil,
        repetitionPenalty: Double? = nil, seed: UInt64? = nil, maxNewTokens: Int? = nil
    ) {
        self.temperature = temperature
        self.topK = topK
        self.topP = topP
        self.repetitionPenalty = repetitionPenalty
        self.seed = seed
        self.maxNewTokens = maxNewTokens
    }

    /// The best token each time.
    public static let greedy = SamplingOptions(temperature: 0, repetitionPenalty: 1)

    /// The sampler that these options and the bundle's `defaults` describe.
    func sampler(_ defaults: SamplingDefaults) throws -> Sampler {
        try Sampler(
            temperature: temperature ?? defaults.temperature, topK: topK ?? defaults.topK,
            topP: topP ?? defaults.topP,
            repetitionPenalty: repetitionPenalty ?? defaults.repetitionPenalty, seed: seed)
    }
}
