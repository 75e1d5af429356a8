// What this package calls of Core Video; see CoreML.swift.

@available(iOS 4, macOS 10.4, *)
public class CVBuffer {}

public typealias CVPixelBuffer = CVBuffer
