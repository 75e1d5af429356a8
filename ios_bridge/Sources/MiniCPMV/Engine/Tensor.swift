/// A dense array of numbers in C order, as it goes into and comes out of a package.
public struct Tensor: Sendable, Equatable {
    /// Lengths of the axes; their product is the number of values.
    public let shape: [Int]
    /// The numbers; an engine converts them to the type that the package declares.
    public var values: [Float]

    /// An array of given numbers.
    public init(shape: [Int], values: [Float]) {
        self.shape = shape
        self.values = values
    }

    /// All values zero.
    public init(zeros shape: [Int]) {
        self.init(shape: shape, values: [Float](repeating: 0, count: shape.reduce(1, *)))
    }
}

extension [String: Tensor] {
    /// The output called `name`, with the shape that the caller relies on.
    ///
    /// - Throws: `MiniCPMVError.modelFailure` where the package gave something else.
    func output(_ name: String, shape: [Int]) throws -> Tensor {
        guard let tensor = self[name] else {
            throw MiniCPMVError.modelFailure(
                "The package gave no '\(name)'; export the bundle again.")
        }
        guard tensor.shape == shape, tensor.values.count == shape.reduce(1, *) else {
            throw MiniCPMVError.modelFailure(
                "The package gave '\(name)' of shape \(tensor.shape), not \(shape); "
                    + "export the bundle again.")
        }
        return tensor
    }
}

/// Swaps the axes of a matrix of `rows` × `columns` values.
func transposed(_ values: some Collection<Float>, rows: Int, columns: Int) -> [Float] {
    let matrix = Array(values)
    return [Float](unsafeUninitializedCapacity: rows * columns) { result, initialized in
        matrix.withUnsafeBufferPointer { matrix in
            for column in 0..<columns {
                for row in 0..<rows {
                    result[column * rows + row] = matrix[row * columns + column]
                }
            }
        }
        initialized = rows * columns
    }
}
