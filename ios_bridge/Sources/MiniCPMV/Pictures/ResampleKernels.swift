/// The inner loops of the resize.
extension ResampleWeights {
    private static let half = Int32(1) << (precision - 1)

    /// One row: `to` gets an RGB pixel for each output.
    func apply(along from: UnsafeBufferPointer<UInt8>, to: UnsafeMutableBufferPointer<UInt8>) {
        values.withUnsafeBufferPointer { values in
            for index in 0..<starts.count {
                var red = Self.half
                var green = Self.half
                var blue = Self.half
                var position = 3 * starts[index]
                let first = index * taps
                for tap in first..<first + counts[index] {
                    let weight = values[tap]
                    red &+= Int32(from[position]) &* weight
                    green &+= Int32(from[position + 1]) &* weight
                    blue &+= Int32(from[position + 2]) &* weight
                    position += 3
                }
                to[3 * index] = Self.clipped(red)
                to[3 * index + 1] = Self.clipped(green)
                to[3 * index + 2] = Self.clipped(blue)
            }
        }
    }

    /// One row of output number `index`, out of the rows of `length` values that it spans.
    func apply(
        across from: UnsafeBufferPointer<UInt8>, length: Int, output index: Int,
        to: UnsafeMutableBufferPointer<UInt8>
    ) {
        let start = starts[index] * length
        let first = index * taps
        values.withUnsafeBufferPointer { values in
            for column in 0..<length {
                var sum = Self.half
                for tap in 0..<counts[index] {
                    sum &+= Int32(from[start + tap * length + column]) &* values[first + tap]
                }
                to[column] = Self.clipped(sum)
            }
        }
    }

    @inline(__always)
    private static func clipped(_ sum: Int32) -> UInt8 {
        UInt8(truncatingIfNeeded: min(max(sum >> Int32(precision), 0), 255))
    }
}
