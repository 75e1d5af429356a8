import Foundation
import MiniCPMV

/// `minicpmv verify BUNDLE`: checks every file, and says the first thing that is wrong.
enum VerifyCommand {
    static let command = Subcommand(usage: "verify BUNDLE [--state FILE]", run: run)

    private static func run(_ given: [String]) throws {
        let arguments = try Arguments(
            given, values: ["BUNDLE"], options: ["state"], usage: command.usage)
        let bundle = try ModelBundle(folder: URL(fileURLWithPath: arguments.values[0]))
        let stateFile = arguments.text("state").map { URL(fileURLWithPath: $0) }
        let saved = stateFile.flatMap { try? Data(contentsOf: $0) }
            .flatMap { try? JSONDecoder().decode(VerificationState.self, from: $0) }
        var verifier = BundleVerifier(bundle, resuming: saved)
        let skipped = verifier.state.verified.count
        defer {
            if let stateFile, let data = try? JSONEncoder().encode(verifier.state) {
                try? data.write(to: stateFile, options: .atomic)
            }
        }
        try verifier.verify()
        let files = bundle.manifest.files
        let bytes = files.reduce(0) { $0 + $1.size }
        let earlier = skipped > 0 ? ", \(skipped) of them verified before" : ""
        print("\(files.count) files, \(bytes) bytes: all checksums match\(earlier)")
    }
}

/// `minicpmv unpack`: a bundle out of a ZIP archive, verified.
enum UnpackCommand {
    static let command = Subcommand(usage: "unpack ZIP FOLDER", run: run)

    private static func run(_ given: [String]) throws {
        let arguments = try Arguments(given, values: ["ZIP", "FOLDER"], usage: command.usage)
        let paths = arguments.values.map { URL(fileURLWithPath: $0) }
        var written = 0
        let bundle = try ModelBundle.unpack(zip: paths[0], to: paths[1]) { _ in written += 1 }
        var verifier = BundleVerifier(bundle)
        try verifier.verify()
        print("\(written) files unpacked: all checksums match")
    }
}
