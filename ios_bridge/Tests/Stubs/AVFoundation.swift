// What this package calls of AVFoundation and Core Media; see CoreML.swift.
import CoreGraphics
import Foundation

@available(iOS 4, macOS 10.7, *)
public struct CMTime: Comparable, Sendable {
    public static let zero = CMTime()
    public var seconds: Double { 0 }
    public var isNumeric: Bool { true }
    public static func < (left: CMTime, right: CMTime) -> Bool { false }
}

@available(iOS 4, macOS 10.7, *)
public class CMSampleBuffer {
    @available(iOS 13, macOS 10.15, *)
    public var presentationTimeStamp: CMTime { .zero }
    @available(iOS 13, macOS 10.15, *)
    public var numSamples: Int { 0 }
}

@available(iOS 4, macOS 10.7, *)
public struct AVMediaType: Sendable {
    public static let video = AVMediaType()
}

@available(iOS 15, macOS 12, *)
public class AVAsyncProperty<Root, Value> {}

extension AVAsyncProperty where Root == AVAsset, Value == CMTime {
    @available(iOS 15, macOS 12, *)
    public static var duration: AVAsyncProperty<AVAsset, CMTime> { AVAsyncProperty() }
}

@available(iOS 4, macOS 10.7, *)
public class AVAssetTrack {}

@available(iOS 4, macOS 10.7, *)
public class AVAsset {
    init() {}  // not called
    @available(iOS 15, macOS 12, *)
    public func load<Value>(_ property: AVAsyncProperty<AVAsset, Value>) async throws -> Value {
        throw CancellationError()
    }
    @available(iOS 15, macOS 12, *)
    public func loadTracks(withMediaType mediaType: AVMediaType) async throws -> [AVAssetTrack] {
        []
    }
}

@available(iOS 4, macOS 10.7, *)
public class AVURLAsset: AVAsset {
    public init(url: URL) {}
}

@available(iOS 4.1, macOS 10.7, *)
public class AVAssetReaderOutput {
    @available(iOS 5, macOS 10.8, *)
    public var alwaysCopiesSampleData = true
    public func copyNextSampleBuffer() -> CMSampleBuffer? { nil }
}

@available(iOS 4.1, macOS 10.7, *)
public class AVAssetReaderTrackOutput: AVAssetReaderOutput {
    public init(track: AVAssetTrack, outputSettings: [String: Any]?) {}
}

@available(iOS 4.1, macOS 10.7, *)
public class AVAssetReader {
    public init(asset: AVAsset) throws {}
    public func add(_ output: AVAssetReaderOutput) {}
    public func startReading() -> Bool { false }
    public var error: (any Error)? { nil }
}

@available(iOS 4, macOS 10.7, *)
public class AVAssetImageGenerator {
    public init(asset: AVAsset) {}
    public var appliesPreferredTrackTransform = false
    @available(iOS 5, macOS 10.7, *)
    public var requestedTimeToleranceBefore = CMTime.zero
    @available(iOS 5, macOS 10.7, *)
    public var requestedTimeToleranceAfter = CMTime.zero
    @available(iOS 16, macOS 13, *)
    public func image(at time: CMTime) async throws -> (image: CGImage, actualTime: CMTime) {
        throw CancellationError()
    }
}
