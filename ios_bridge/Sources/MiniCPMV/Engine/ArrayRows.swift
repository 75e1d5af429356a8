/// Where the rows of a strided array begin; a row is as many values as lie side by side.
struct ArrayRows {
    /// Values of a row.
    let length: Int
    /// First element of each row, in C order.
    let starts: [Int]

    /// - Parameters:
    ///   - shape: lengths of the axes.
    ///   - strides: distances between neighbours along each axis, in elements.
    /// - Throws: `MiniCPMVError.modelFailure` for strides that are none of such an array.
    init(shape: [Int], strides: [Int], name: String) throws {
        guard shape.count == strides.count, shape.allSatisfy({ $0 >= 0 }),
            strides.allSatisfy({ $0 >= 0 })
        else {
            throw MiniCPMVError.modelFailure(
                "The array \(name) has the shape \(shape) and the strides \(strides), which do "
                    + "not belong together.")
        }
        var length = 1
        var outer = shape.count
        // Axes of one value lie side by side with anything.
        while outer > 0, shape[outer - 1] == 1 || strides[outer - 1] == length {
            outer -= 1
            length *= shape[outer]
        }
        var starts = [0]
        for axis in 0..<outer {
            starts = starts.flatMap { start in
                (0..<shape[axis]).map { start + $0 * strides[axis] }
            }
        }
        self.length = length
        self.starts = length == 0 ? [] : starts
    }
}
