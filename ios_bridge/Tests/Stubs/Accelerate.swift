// What this package calls of Accelerate; see CoreML.swift.

public typealias vImagePixelCount = UInt
public typealias vImage_Error = Int
public typealias vImage_Flags = UInt32

@available(iOS 5, macOS 10.3, *)
public struct vImage_Buffer {
    public init(
        data: UnsafeMutableRawPointer?, height: vImagePixelCount, width: vImagePixelCount,
        rowBytes: Int
    ) {}
}

public let kvImageNoError = 0

@available(iOS 5, macOS 10.4, *)
public func vImageConvert_PlanarFtoPlanar16F(
    _ source: UnsafePointer<vImage_Buffer>, _ target: UnsafePointer<vImage_Buffer>,
    _ flags: vImage_Flags
) -> vImage_Error { 0 }

@available(iOS 5, macOS 10.4, *)
public func vImageConvert_Planar16FtoPlanarF(
    _ source: UnsafePointer<vImage_Buffer>, _ target: UnsafePointer<vImage_Buffer>,
    _ flags: vImage_Flags
) -> vImage_Error { 0 }
