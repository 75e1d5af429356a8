// swift-tools-version: 6.0
import PackageDescription

// The command's target and folder are not called `minicpmv`: on a file system that ignores case,
// as a Mac's, they would be those of the library.
let package = Package(
    name: "MiniCPMV",
    platforms: [.iOS(.v18), .macOS(.v15)],
    products: [
        .library(name: "MiniCPMV", targets: ["MiniCPMV"]),
        .executable(name: "minicpmv", targets: ["MiniCPMVCommand"]),
    ],
    targets: [
        .target(name: "MiniCPMV", path: "ios_bridge/Sources/MiniCPMV"),
        .executableTarget(
            name: "MiniCPMVCommand", dependencies: ["MiniCPMV"],
            path: "ios_bridge/Sources/MiniCPMVCommand"),
        .testTarget(
            name: "MiniCPMVTests", dependencies: ["MiniCPMV", "MiniCPMVCommand"],
            path: "ios_bridge/Tests/MiniCPMVTests"),
    ]
)
