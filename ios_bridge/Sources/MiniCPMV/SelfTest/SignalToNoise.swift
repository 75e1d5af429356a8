import Foundation

/// How far numbers are from a reference.
enum SignalToNoise {
    /// 20·log10(max|reference| / root of the mean squared error), in dB; infinite when equal, NaN
    /// when a number is none or the counts differ.
    static func decibels(_ candidate: [Float], _ reference: [Float]) -> Double {
        guard candidate.count == reference.count, !reference.isEmpty else { return .nan }
        var squares = 0.0
        var top = 0.0
        for (given, wanted) in zip(candidate, reference) {
            let error = Double(given) - Double(wanted)
            squares += error * error
            top = max(top, Double(abs(wanted)))
        }
        let error = (squares / Double(reference.count)).squareRoot()
        return error == 0 ? .infinity : 20 * log10(top / error)
    }

    /// Index of the largest value, the first of equal ones.
    static func largest(_ values: ArraySlice<Float>) -> Int {
        var best = values.startIndex
        for index in values.indices where values[index] > values[best] { best = index }
        return best - values.startIndex
    }
}
