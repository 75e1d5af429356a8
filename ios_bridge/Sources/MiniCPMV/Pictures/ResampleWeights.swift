import Foundation

/// The weights of Pillow's bicubic filter along one axis, in fixed point.
///
/// Output `i` lies at `(i + ½) · scale` of the source, `scale` being source size / output size.
/// The kernel has a = −½ and spans two source pixels on each side, or two output pixels where that
/// is more (it is stretched when shrinking, which keeps details from aliasing). Weights sum to one.
struct ResampleWeights: Sendable {
    /// Bits after the binary point: 8-bit values times weights just fit 32 bits with their sign.
    static let precision = 22

    /// Weights stored for each output; those past `counts` are zero.
    let taps: Int
    /// First source index of each output.
    let starts: [Int]
    /// Source values that each output uses.
    let counts: [Int]
    /// (outputs, taps), row by row.
    let values: [Int32]

    init(source: Int, output: Int) {
        let scale = Double(source) / Double(output)
        let stretch = max(scale, 1)
        let support = 2 * stretch
        let taps = Int(support.rounded(.up)) * 2 + 1
        var starts: [Int] = []
        var counts: [Int] = []
        var values = [Int32](repeating: 0, count: output * taps)
        for index in 0..<output {
            let center = (Double(index) + 0.5) * scale
            let start = max(Int(center - support + 0.5), 0)
            let end = min(Int(center + support + 0.5), source)
            let weights = Self.normalized(start: start, end: end, center: center, stretch: stretch)
            for (tap, weight) in weights.enumerated() {
                values[index * taps + tap] = Self.fixedPoint(weight)
            }
            starts.append(start)
            counts.append(weights.count)
        }
        self.taps = taps
        self.starts = starts
        self.counts = counts
        self.values = values
    }

    private static func normalized(
        start: Int, end: Int, center: Double, stretch: Double
    ) -> [Double] {
        let inverse = 1 / stretch
        let weights = (start..<max(start, end)).map { source in
            kernel((Double(source) - center + 0.5) * inverse)
        }
        let sum = weights.reduce(0, +)
        return sum == 0 ? weights : weights.map { $0 / sum }
    }

    /// Keys' cubic convolution with a = −½.
    private static func kernel(_ position: Double) -> Double {
        let a = -0.5
        let x = abs(position)
        if x < 1 { return ((a + 2) * x - (a + 3)) * x * x + 1 }
        if x < 2 { return (((x - 5) * x + 8) * x - 4) * a }
        return 0
    }

    /// Rounded half away from zero.
    private static func fixedPoint(_ weight: Double) -> Int32 {
        let scaled = weight * Double(1 << precision)
        return Int32(scaled < 0 ? scaled - 0.5 : scaled + 0.5)
    }
}
