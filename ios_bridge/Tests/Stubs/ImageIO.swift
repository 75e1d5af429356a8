// What this package calls of Image I/O; see CoreML.swift.
import CoreGraphics

@available(iOS 4, macOS 10.4, *)
public class CGImageSource {}

@available(iOS 4, macOS 10.4, *)
public func CGImageSourceCreateWithURL(_ url: CFURL, _ options: CFDictionary?) -> CGImageSource? {
    nil
}

@available(iOS 4, macOS 10.4, *)
public func CGImageSourceCreateWithData(
    _ data: CFData, _ options: CFDictionary?
) -> CGImageSource? { nil }

@available(iOS 4, macOS 10.4, *)
public func CGImageSourceCreateImageAtIndex(
    _ source: CGImageSource, _ index: Int, _ options: CFDictionary?
) -> CGImage? { nil }

@available(iOS 4, macOS 10.4, *)
public func CGImageSourceCopyPropertiesAtIndex(
    _ source: CGImageSource, _ index: Int, _ options: CFDictionary?
) -> CFDictionary? { nil }

@available(iOS 4, macOS 10.4, *)
public let kCGImagePropertyOrientation: CFString = ""
