// swift-tools-version: 6.0
import PackageDescription

let package = Package(
    name: "MiniCPMV",
    platforms: [.iOS(.v18), .macOS(.v15)],
    products: [
        .library(name: "MiniCPMV", targets: ["MiniCPMV"]),
        .executable(name: "minicpmv", targets: ["minicpmv"]),
    ],
    targets: [
        .target(name: "MiniCPMV", path: "ios_bridge/Sources/MiniCPMV"),
        .executableTarget(
            name: "minicpmv", dependencies: ["MiniCPMV"], path: "ios_bridge/Sources/minicpmv"),
        .testTarget(
            name: "MiniCPMVTests", dependencies: ["MiniCPMV"],
            path: "ios_bridge/Tests/MiniCPMVTests"),
    ]
)
