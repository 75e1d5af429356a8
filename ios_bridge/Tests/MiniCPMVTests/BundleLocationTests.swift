import Foundation
import Synchronization
import XCTest

@testable import MiniCPMV

/// Bundles that are not in one folder.
final class BundleLocationTests: XCTestCase {
    private var folder = FileManager.default.temporaryDirectory

    override func setUpWithError() throws {
        folder = FileManager.default.temporaryDirectory
            .appendingPathComponent(UUID().uuidString)
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    }

    override func tearDownWithError() throws {
        try FileManager.default.removeItem(at: folder)
    }

    /// The table's bundle, moved file by file into `count` folders in turn.
    private func spread(over count: Int) throws -> [URL] {
        let table = try Table()
        let own = folder.appendingPathComponent(UUID().uuidString)
        let whole = try table.write(in: own, named: "whole")
        let packs = (0..<count).map { own.appendingPathComponent("pack-\($0)") }
        let paths = [Manifest.fileName] + table.files.keys.sorted()
        for (number, path) in paths.enumerated() {
            let target = packs[number % count].appendingPathComponent(path)
            try FileManager.default.createDirectory(
                at: target.deletingLastPathComponent(), withIntermediateDirectories: true)
            try FileManager.default.moveItem(at: whole.appendingPathComponent(path), to: target)
        }
        return packs
    }

    /// The table's bundle as files with names that say nothing.
    private func flattened() throws -> [String: URL] {
        let table = try Table()
        let own = folder.appendingPathComponent(UUID().uuidString)
        let whole = try table.write(in: own, named: "whole")
        var files: [String: URL] = [:]
        for (number, path) in ([Manifest.fileName] + table.files.keys.sorted()).enumerated() {
            let url = own.appendingPathComponent("download-\(number)")
            try FileManager.default.moveItem(at: whole.appendingPathComponent(path), to: url)
            files[path] = url
        }
        return files
    }

    private func verify(_ location: any BundleLocation) throws {
        var verifier = BundleVerifier(try ModelBundle(at: location))
        try verifier.verify()
    }

    private func refusal(_ location: any BundleLocation) -> MiniCPMVError? {
        do {
            try verify(location)
            return nil
        } catch {
            return error as? MiniCPMVError
        }
    }

    func testFilesInSeveralFoldersAreOneBundle() throws {
        for count in 1...3 {
            try verify(BundleFolders(try spread(over: count)))
        }
        try verify(BundleFiles(try flattened()))
    }

    func testEveryTamperedBundleIsRefusedInFoldersToo() throws {
        let table = try Table()
        for (number, item) in table.cases.enumerated() {
            let bundle = try table.write(in: folder, named: String(number))
            try table.tamper(bundle, item.edit)
            let empty = folder.appendingPathComponent("empty")
            let error = refusal(BundleFolders([empty, bundle]))
            XCTAssertEqual(error?.caseName, item.error, item.name)
        }
    }

    func testAFileThatNoFolderHasIsNamed() throws {
        let packs = try spread(over: 3)
        for pack in packs {
            let others = BundleFolders(packs.filter { $0 != pack })
            let error = refusal(others)
            XCTAssertEqual(error?.caseName, "missingFile")
            let lacking = Set(try Table().files.keys.filter { try others.url(of: $0) == nil })
            let sentence = error?.sentence ?? ""
            let isManifest = sentence.contains("has no \(Manifest.fileName)")
            XCTAssertTrue(isManifest || lacking.contains { sentence.contains("lacks \($0)") })
        }
        var files = try flattened()
        files["embed_tokens.bin"] = nil
        let error = refusal(BundleFiles(files))
        XCTAssertTrue(error?.sentence.contains("lacks embed_tokens.bin") ?? false)
    }

    func testAPathThatLeadsOutIsNotAskedFor() throws {
        struct Everything: BundleLocation {
            let inner: any BundleLocation
            let asked = Asked()
            var description: String { inner.description }
            func url(of path: String) throws -> URL? {
                asked.paths.withLock { _ = $0.insert(path) }
                return try inner.url(of: path)
            }
        }
        final class Asked: Sendable {
            let paths = Mutex<Set<String>>([])
        }
        let table = try Table()
        let cases = table.cases.filter {
            $0.error == "unsafePath" && $0.edit.object?["set"] != nil
        }
        XCTAssertGreaterThan(cases.count, 2)
        for (number, item) in cases.enumerated() {
            let bundle = try table.write(in: folder, named: String(number))
            try table.tamper(bundle, item.edit)
            let location = Everything(inner: BundleFolder(bundle))
            XCTAssertEqual(refusal(location)?.caseName, "unsafePath", item.name)
            let asked = location.asked.paths.withLock { $0 }
            XCTAssertTrue(asked.contains(Manifest.fileName))
            XCTAssertFalse(asked.contains { $0.contains("..") || $0.hasPrefix("/") }, "\(asked)")
        }
    }

    /// What Core ML would be given of the table's package, and whether it was a copy.
    private func package(
        _ location: any BundleLocation
    ) async throws -> (files: [String: String], url: URL) {
        let bundle = try ModelBundle(at: location)
        let graph = try XCTUnwrap(bundle.manifest.graphs.first)
        return try await PackageFolder(graph, in: bundle).whole { url in
            let paths = try FileManager.default.subpathsOfDirectory(atPath: url.path)
            var files: [String: String] = [:]
            for path in paths {
                let data = try? Data(contentsOf: url.appendingPathComponent(path))
                files[path] = data.map { String(decoding: $0, as: UTF8.self) }
            }
            return (files, url)
        }
    }

    func testAPackageThatIsWholeIsUsedWhereItIs() async throws {
        let bundle = try Table().write(in: folder, named: "whole")
        let empty = folder.appendingPathComponent("empty")
        for location: any BundleLocation in [
            BundleFolder(bundle), BundleFolders([empty, bundle]),
        ] {
            let (_, url) = try await package(location)
            XCTAssertEqual(
                url.path, BundlePaths.withoutLinks(bundle.path + "/decoder.mlpackage"))
        }
    }

    func testAPackageInPartsIsPutTogetherForAsLongAsItIsNeeded() async throws {
        let wanted = ["Manifest.json": "{}\n", "Data/weight.bin": "0123456789abcdef"]
        for location: any BundleLocation in [
            BundleFolders(try spread(over: 2)), BundleFiles(try flattened()),
        ] {
            let (files, url) = try await package(location)
            XCTAssertEqual(files, wanted)
            XCTAssertEqual(url.lastPathComponent, "decoder.mlpackage")
            XCTAssertFalse(FileManager.default.fileExists(atPath: url.path))
        }
    }

    func testAPackageThatLacksAPartIsNotGiven() async throws {
        var files = try flattened()
        files["decoder.mlpackage/Data/weight.bin"] = nil
        do {
            _ = try await package(BundleFiles(files))
            XCTFail("was given")
        } catch let error as MiniCPMVError {
            XCTAssertTrue(error.sentence.contains("lacks decoder.mlpackage/Data/weight.bin"))
        }
    }
}
