// What this package calls of Core Graphics; see CoreML.swift. Types of Core Foundation are those
// that Swift bridges them to.
import Foundation

public typealias CFString = String
public typealias CFURL = URL
public typealias CFData = Data
public typealias CFDictionary = NSDictionary

@available(iOS 2, macOS 10.0, *)
public class CGImage {
    public var width: Int { 0 }
    public var height: Int { 0 }
}

@available(iOS 2, macOS 10.0, *)
public enum CGImageAlphaInfo: UInt32 {
    case noneSkipLast = 5
}

@available(iOS 2, macOS 10.0, *)
public class CGColorSpace {
    @available(iOS 9, macOS 10.5, *)
    public class var sRGB: CFString { "" }
    @available(iOS 9, macOS 10.5, *)
    public init?(name: CFString) {}
}

@available(iOS 2, macOS 10.0, *)
public class CGContext {
    public init?(
        data: UnsafeMutableRawPointer?, width: Int, height: Int, bitsPerComponent: Int,
        bytesPerRow: Int, space: CGColorSpace, bitmapInfo: UInt32
    ) {}
    @available(iOS 4, macOS 10.2, *)
    public var data: UnsafeMutableRawPointer? { nil }
    public func setFillColor(red: CGFloat, green: CGFloat, blue: CGFloat, alpha: CGFloat) {}
    public func fill(_ rect: CGRect) {}
    public func draw(_ image: CGImage, in rect: CGRect) {}
}
