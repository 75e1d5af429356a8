// What this package calls of System; see CoreML.swift.

@available(iOS 14, macOS 11, *)
public struct FilePath: Sendable {
    public init(_ string: String) {}
}
