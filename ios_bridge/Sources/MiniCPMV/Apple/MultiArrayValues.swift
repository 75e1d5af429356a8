#if canImport(CoreML) && canImport(Accelerate)
    import Accelerate
    import CoreML
    import Foundation

    /// Numbers into and out of Core ML's arrays, whose rows may be padded.
    ///
    /// Half-precision numbers are converted by Accelerate: Swift's `Float16` is missing on Intel
    /// Macs.
    enum MultiArrayValues {
        /// The element type of an input.
        static func type(of spec: TensorSpec) throws -> MLMultiArrayDataType {
            switch spec.dtype {
            case "float16": return .float16
            case "float32": return .float32
            case "int32": return .int32
            default:
                throw MiniCPMVError.invalidManifest(
                    "\(spec.name) has the type \(spec.dtype); Core ML takes float16, float32 and "
                        + "int32; export the bundle again.")
            }
        }

        /// Fill `array`.
        static func write(_ tensor: Tensor, to array: MLMultiArray, name: String) throws {
            guard tensor.shape == array.shape.map(\.intValue) else {
                throw MiniCPMVError.modelFailure(
                    "\(name) has the shape \(tensor.shape), the package takes "
                        + "\(array.shape.map(\.intValue)); export the bundle again.")
            }
            let type = array.dataType
            try tensor.values.withUnsafeBytes { source in
                try array.withUnsafeMutableBytes { target, strides in
                    let rows = try ArrayRows(shape: tensor.shape, strides: strides, name: name)
                    for (row, start) in rows.starts.enumerated() {
                        try convert(
                            source, row * rows.length, to: target, start, rows.length, type, name)
                    }
                }
            }
        }

        /// The numbers of `array`.
        static func read(_ array: MLMultiArray, name: String) throws -> Tensor {
            let shape = array.shape.map(\.intValue)
            let (type, strides) = (array.dataType, array.strides.map(\.intValue))
            let rows = try ArrayRows(shape: shape, strides: strides, name: name)
            var tensor = Tensor(zeros: shape)
            try tensor.values.withUnsafeMutableBytes { target in
                try array.withUnsafeBytes { source in
                    for (row, start) in rows.starts.enumerated() {
                        try convert(
                            source, start, type, to: target, row * rows.length, rows.length, name)
                    }
                }
            }
            return tensor
        }

        /// Offsets are in elements.
        private static func convert(
            _ source: UnsafeRawBufferPointer, _ from: Int, to target: UnsafeMutableRawBufferPointer,
            _ start: Int, _ count: Int, _ type: MLMultiArrayDataType, _ name: String
        ) throws {
            switch type {
            case .float16:
                var wide = try buffer(source, from, count, 4, name)
                var half = try buffer(UnsafeRawBufferPointer(target), start, count, 2, name)
                try check(vImageConvert_PlanarFtoPlanar16F(&wide, &half, 0), name)
            case .float32:
                let bytes = try slice(source, 4 * from, 4 * count, name)
                _ = try slice(UnsafeRawBufferPointer(target), 4 * start, 4 * count, name)
                UnsafeMutableRawBufferPointer(rebasing: target[(4 * start)...])
                    .copyMemory(from: bytes)
            case .int32:
                _ = try slice(UnsafeRawBufferPointer(target), 4 * start, 4 * count, name)
                for index in 0..<count {
                    let value = source.load(fromByteOffset: 4 * (from + index), as: Float.self)
                    target.storeBytes(
                        of: Int32(value), toByteOffset: 4 * (start + index), as: Int32.self)
                }
            default:
                throw unknown(type, name)
            }
        }

        private static func convert(
            _ source: UnsafeRawBufferPointer, _ from: Int, _ type: MLMultiArrayDataType,
            to target: UnsafeMutableRawBufferPointer, _ start: Int, _ count: Int, _ name: String
        ) throws {
            switch type {
            case .float16:
                var half = try buffer(source, from, count, 2, name)
                var wide = try buffer(UnsafeRawBufferPointer(target), start, count, 4, name)
                try check(vImageConvert_Planar16FtoPlanarF(&half, &wide, 0), name)
            case .float32:
                UnsafeMutableRawBufferPointer(rebasing: target[(4 * start)...])
                    .copyMemory(from: try slice(source, 4 * from, 4 * count, name))
            default:
                throw unknown(type, name)
            }
        }

        private static func buffer(
            _ bytes: UnsafeRawBufferPointer, _ start: Int, _ count: Int, _ size: Int,
            _ name: String
        ) throws -> vImage_Buffer {
            let part = try slice(bytes, size * start, size * count, name)
            return vImage_Buffer(
                data: UnsafeMutableRawPointer(mutating: part.baseAddress), height: 1,
                width: vImagePixelCount(count), rowBytes: size * count)
        }

        private static func slice(
            _ bytes: UnsafeRawBufferPointer, _ start: Int, _ count: Int, _ name: String
        ) throws -> UnsafeRawBufferPointer {
            guard start >= 0, start + count <= bytes.count else {
                throw MiniCPMVError.modelFailure(
                    "The array \(name) has \(bytes.count) bytes, fewer than its shape needs; "
                        + "export the bundle again.")
            }
            return UnsafeRawBufferPointer(rebasing: bytes[start..<start + count])
        }

        private static func check(_ status: vImage_Error, _ name: String) throws {
            guard status == kvImageNoError else {
                throw MiniCPMVError.modelFailure(
                    "\(name) could not be converted (Accelerate's error \(status)).")
            }
        }

        private static func unknown(
            _ type: MLMultiArrayDataType, _ name: String
        ) -> MiniCPMVError {
            .modelFailure(
                "\(name) has Core ML's element type \(type.rawValue); numbers of 16 and 32 bits "
                    + "are known; export the bundle again.")
        }
    }
#endif
