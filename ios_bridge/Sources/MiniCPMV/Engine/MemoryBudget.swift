import Foundation

#if canImport(os)
    import os
#endif

/// What the system still grants this app, and what must stay free of it.
public struct MemoryBudget: Sendable {
    /// Bytes that stay free for the app itself.
    public var reserve: Int
    private let available: @Sendable () -> Int?

    /// The system's own figure, with half a gigabyte left to the app.
    public init(reserve: Int = 1 << 29) {
        self.init(reserve: reserve, available: Self.systemAvailable)
    }

    /// - Parameter available: bytes that can still be had; nil where there is no limit.
    public init(reserve: Int, available: @escaping @Sendable () -> Int?) {
        self.reserve = reserve
        self.available = available
    }

    /// Bytes that this app can still have before the system ends it; nil where there is no limit,
    /// as on a Mac.
    public static func systemAvailable() -> Int? {
        #if canImport(os) && !os(macOS)
            let bytes = os_proc_available_memory()
            return bytes > 0 ? Int(bytes) : nil  // 0 in the simulator and in extensions
        #else
            return nil
        #endif
    }

    /// Most memory that this process has held so far, in bytes, mapped files included.
    public static func peakOfProcess() -> Int {
        #if canImport(Darwin)
            var usage = rusage()
            return getrusage(RUSAGE_SELF, &usage) == 0 ? usage.ru_maxrss : 0
        #else
            let status = try? String(contentsOfFile: "/proc/self/status", encoding: .utf8)
            let line = status?.split(separator: "\n").first { $0.hasPrefix("VmHWM:") }
            let words = line?.split(whereSeparator: \.isWhitespace) ?? []
            return words.count > 1 ? 1024 * (Int(words[1]) ?? 0) : 0
        #endif
    }

    /// Whether `bytes` more leave the reserve untouched.
    func holds(_ bytes: Int) -> Bool {
        guard let free = available() else { return true }
        return free - reserve >= bytes
    }

    func refusal(of graph: GraphSpec) -> MiniCPMVError {
        .notEnoughMemory(
            "\(graph.name) needs \(graph.weightBytes) bytes, \(available() ?? 0) are left to this "
                + "app and \(reserve) of them are kept free; add the increased-memory-limit "
                + "entitlement, close other apps, or export fewer bits.")
    }
}
