/// SplitMix64 by Vigna, Lea and Steele: expands a seed into words of 64 bits.
public struct SplitMix64: Sendable {
    private var state: UInt64

    /// Start from a seed.
    public init(seed: UInt64) {
        state = seed
    }

    /// The next 64 bits.
    public mutating func nextWord() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var mixed = (state ^ (state >> 30)) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
        return mixed ^ (mixed >> 31)
    }
}

/// xoshiro256** by Blackman and Vigna, seeded by `SplitMix64`: the sampler's random numbers.
///
/// The Python runtime has the same generator, so that a seed gives the same draws there.
public struct Xoshiro256StarStar: Sendable {
    private var state: (UInt64, UInt64, UInt64, UInt64)

    /// Start from a state, which must not be all zero.
    init(state: (UInt64, UInt64, UInt64, UInt64)) {
        self.state = state
    }

    /// Start from four words of `SplitMix64`; without a seed, from the system's entropy.
    public init(seed: UInt64?) {
        var words = SplitMix64(seed: seed ?? UInt64.random(in: .min ... .max))
        state = (words.nextWord(), words.nextWord(), words.nextWord(), words.nextWord())
    }

    /// The next 64 bits.
    public mutating func nextWord() -> UInt64 {
        let (a, b, c, d) = state
        let word = Self.rotated(b &* 5, 7) &* 9
        let (mixedC, mixedD) = (c ^ a, d ^ b)
        state = (a ^ mixedD, b ^ mixedC, mixedC ^ (b << 17), Self.rotated(mixedD, 45))
        return word
    }

    /// A double from [0, 1): the upper 53 bits of the next word, divided by 2⁵³.
    public mutating func nextFraction() -> Double {
        Double(nextWord() >> 11) * 0x1p-53
    }

    private static func rotated(_ word: UInt64, _ bits: UInt64) -> UInt64 {
        (word << bits) | (word >> (64 - bits))
    }
}
