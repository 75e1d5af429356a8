// What this package calls of Background Assets; see CoreML.swift.
import Foundation
import System

@available(iOS 26, macOS 26, *)
public actor AssetPackManager {
    public static let shared = AssetPackManager()
    public nonisolated func url(for path: FilePath) throws -> URL { URL(fileURLWithPath: "/") }
}
