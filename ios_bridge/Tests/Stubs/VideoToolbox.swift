// What this package calls of Video Toolbox; see CoreML.swift.
import CoreGraphics
import CoreVideo

public typealias OSStatus = Int32

@available(iOS 9, macOS 10.11, *)
public func VTCreateCGImageFromCVPixelBuffer(
    _ pixelBuffer: CVPixelBuffer, options: CFDictionary?,
    imageOut: UnsafeMutablePointer<CGImage?>
) -> OSStatus { 0 }
