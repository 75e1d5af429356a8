import Foundation

/// Logits to the next token, in the order and with the rules of Hugging Face's generate().
///
/// Repetition penalty, temperature, top-k, top-p, then a draw; temperature 0 takes the best token.
/// Neutral values: temperature 1, topK 0 (all tokens), topP 1, repetitionPenalty 1. Two samplers
/// with the same seed draw the same tokens from the same logits, also in the Python runtime.
public struct Sampler: Sendable {
    private let temperature: Double
    private let topK: Int
    private let topP: Double
    private let repetitionPenalty: Double
    private var generator: Xoshiro256StarStar
    /// With factors beyond these, quotients leave `Float`.
    private static let factors = 1e-4...1e4

    /// A sampler that draws the same tokens each time with a `seed`, others without.
    ///
    /// - Throws: `MiniCPMVError.invalidOption` that names the setting out of its range.
    public init(
        temperature: Double, topK: Int, topP: Double, repetitionPenalty: Double,
        seed: UInt64? = nil
    ) throws {
        try Self.require(
            temperature == 0 || Self.factors.contains(temperature), "temperature", temperature,
            "0 (the best token) or 0.0001 to 10000")
        try Self.require(topK >= 0, "top_k", topK, "0 (all tokens) or more")
        try Self.require(topP > 0 && topP <= 1, "top_p", topP, "above 0 and at most 1")
        try Self.require(
            Self.factors.contains(repetitionPenalty), "repetition_penalty", repetitionPenalty,
            "0.0001 to 10000")
        self.temperature = temperature
        self.topK = topK
        self.topP = topP
        self.repetitionPenalty = repetitionPenalty
        generator = Xoshiro256StarStar(seed: seed)
    }

    private static func require(
        _ good: Bool, _ name: String, _ value: Any, _ allowed: String
    ) throws {
        guard good else {
            throw MiniCPMVError.invalidOption("\(name) is \(value); it must be \(allowed).")
        }
    }

    /// Choose the next token.
    ///
    /// - Parameters:
    ///   - logits: one score a token of the vocabulary.
    ///   - generated: the answer's ids so far, not the prompt's.
    /// - Throws: `MiniCPMVError.modelFailure` for logits that are empty or hold NaN.
    public mutating func nextToken(_ logits: [Float], generated: [Int]) throws -> Int {
        guard !logits.isEmpty, !logits.contains(where: \.isNaN) else {
            throw MiniCPMVError.modelFailure(
                "The model's scores are not numbers; load it again, on other compute units.")
        }
        let scores = Self.penalized(logits, generated, repetitionPenalty)
        if temperature == 0 { return Self.best(scores) }
        let (ids, probabilities) = Self.candidates(
            scores, temperature: temperature, topK: topK, topP: topP)
        let total = probabilities.reduce(0, +)
        let point = generator.nextFraction() * total
        var sum = 0.0
        for (id, probability) in zip(ids, probabilities) {
            sum += probability
            if sum > point { return id }
        }
        return ids[ids.count - 1]
    }

    private static func best(_ scores: [Float]) -> Int {
        var best = 0
        for (id, score) in scores.enumerated() where score > scores[best] { best = id }
        return best
    }

    /// Divide positive and multiply negative scores of the tokens in `generated`, each once.
    static func penalized(_ scores: [Float], _ generated: [Int], _ penalty: Double) -> [Float] {
        if penalty == 1 || generated.isEmpty { return scores }
        let factor = Float(penalty)
        var penalized = scores
        for id in Set(generated) {
            penalized[id] = scores[id] < 0 ? scores[id] * factor : scores[id] / factor
        }
        return penalized
    }

    /// Ids that may be drawn, worst first, and their probabilities (unnormalised sum ≤ 1).
    ///
    /// top_k keeps ties with the k-th best. top_p drops the worst tokens while their probabilities
    /// sum to at most 1 − top_p, and never the best one.
    static func candidates(
        _ logits: [Float], temperature: Double, topK: Int, topP: Double
    ) -> (ids: [Int], probabilities: [Double]) {
        let divisor = Float(temperature)
        let scores = logits.map { $0 / divisor }
        var ids = Array(scores.indices)
        if topK > 0, topK < scores.count {
            let worst = LargestScores.threshold(scores, count: topK)
            ids = ids.filter { scores[$0] >= worst }
        }
        ids.sort { (scores[$0], $0) < (scores[$1], $1) }
        let top = Double(scores[ids[ids.count - 1]])
        let weights = ids.map { exp(Double(scores[$0]) - top) }
        let total = weights.reduce(0, +)
        let probabilities = weights.map { $0 / total }
        guard topP < 1 else { return (ids, probabilities) }
        var first = 0
        var sum = 0.0
        while first < ids.count - 1 {
            sum += probabilities[first]
            if sum > 1 - topP { break }
            first += 1
        }
        return (Array(ids[first...]), Array(probabilities[first...]))
    }
}
