import Foundation

/// Cosines and sines of Qwen3's rotary embedding, both halves alike.
public struct RotaryTables: Sendable {
    private let frequencies: [Float]

    /// Tables of one model.
    ///
    /// - Parameters:
    ///   - headDim: width of a head.
    ///   - theta: base of the frequencies.
    public init(headDim: Int, theta: Double) {
        frequencies = stride(from: 0, to: headDim, by: 2).map { index in
            1 / Float(pow(theta, Double(Float(index) / Float(headDim))))
        }
    }

    /// The tables of `positions` in the graphs' layout: (headDim, positions), row by row.
    public func tables(_ positions: Range<Int>) -> (cos: [Float], sin: [Float]) {
        var cosines: [Float] = []
        var sines: [Float] = []
        for frequency in frequencies {
            let angles = positions.map { Double(Float($0) * frequency) }
            cosines += angles.map { Float(cos($0)) }
            sines += angles.map { Float(sin($0)) }
        }
        return (cosines + cosines, sines + sines)
    }
}
