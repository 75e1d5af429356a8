/// Additive attention masks: 0 where a key may be seen, `masked` where not.
public enum AttentionMask {
    /// Finite, and far below any score in float16.
    public static let masked: Float = -1e4

    /// The vision encoder's mask over `length` patches of which the first `count` are real.
    public static func padding(count: Int, length: Int) -> [Float] {
        [Float](repeating: 0, count: count)
            + [Float](repeating: masked, count: max(0, length - count))
    }

    /// Causal, with the block's rows already in the cache: row i sees keys up to position + i.
    ///
    /// - Returns: (length, context), row by row.
    public static func state(position: Int, length: Int, context: Int) -> [Float] {
        (0..<length).flatMap { row in
            padding(count: min(position + row + 1, context), length: context)
        }
    }

    /// Causal, with the block's own keys after the `context` cached ones.
    ///
    /// - Returns: (length, context + length), row by row.
    public static func io(position: Int, length: Int, context: Int) -> [Float] {
        (0..<length).flatMap { row in
            padding(count: min(position, context), length: context)
                + padding(count: row + 1, length: length)
        }
    }
}
