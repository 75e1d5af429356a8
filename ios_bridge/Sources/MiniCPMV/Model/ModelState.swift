/// What a model is doing. Fractions are of the bytes of that step, 0 to 1.
public enum ModelState: Sendable, Equatable {
    /// An archive is unpacked.
    case unpacking(fraction: Double)
    /// Files are compared with their checksums.
    case verifying(fraction: Double)
    /// A package is made ready for this device: minutes the first time, then kept.
    case compiling(package: String, fraction: Double)
    /// A package is opened.
    case loading(package: String, fraction: Double)
    /// Answers start at once.
    case ready
    /// No package is open; the first answer opens them.
    case unloaded
}
