import Foundation
import XCTest

@testable import MiniCPMV

/// The table that the Python runtime's tests read too: a tiny bundle, and ways to damage it.
final class TamperedBundleTests: XCTestCase {
    private var folder = FileManager.default.temporaryDirectory

    override func setUpWithError() throws {
        folder = FileManager.default.temporaryDirectory
            .appendingPathComponent(UUID().uuidString)
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    }

    override func tearDownWithError() throws {
        try FileManager.default.removeItem(at: folder)
    }

    func testTheIntactBundleIsAccepted() throws {
        let table = try Table()
        let bundle = try ModelBundle(folder: table.write(in: folder, named: "intact"))
        var verifier = BundleVerifier(bundle)
        var last = VerificationProgress(done: 0, total: 0)
        try verifier.verify { last = $0 }
        let bytes = table.files.values.reduce(0) { $0 + $1.utf8.count }
        XCTAssertEqual(last, VerificationProgress(done: bytes, total: bytes))
        XCTAssertEqual(verifier.state.verified.count, table.files.count)
    }

    func testEveryTamperedBundleIsRefusedForItsReason() throws {
        let table = try Table()
        XCTAssertGreaterThan(table.cases.count, 40)
        for (number, item) in table.cases.enumerated() {
            let bundle = try table.write(in: folder, named: String(number))
            try table.tamper(bundle, item.edit)
            XCTAssertThrowsError(try verify(bundle), item.name) { error in
                let error = error as? MiniCPMVError
                XCTAssertEqual(error?.caseName, item.error, item.name)
                let sentence = error?.errorDescription ?? ""
                XCTAssertTrue(sentence.contains(item.text), "\(item.name): \(sentence)")
            }
        }
    }

    func testAnInterruptedVerificationGoesOn() throws {
        let table = try Table()
        let path = try table.write(in: folder, named: "resumed")
        var first = BundleVerifier(try ModelBundle(folder: path))
        struct Interruption: Error {}
        XCTAssertThrowsError(
            try first.verify { if $0.done > 60 { throw Interruption() } }
        ) { XCTAssertTrue($0 is Interruption) }
        let saved = try JSONEncoder().encode(first.state)
        let state = try JSONDecoder().decode(VerificationState.self, from: saved)
        XCTAssertEqual(state, first.state)
        XCTAssertFalse(state.verified.isEmpty)
        XCTAssertLessThan(state.verified.count, table.files.count)
        var second = BundleVerifier(try ModelBundle(folder: path), resuming: state)
        try second.verify()
        XCTAssertEqual(second.state.verified.count, table.files.count)
    }

    private func verify(_ path: URL) throws {
        var verifier = BundleVerifier(try ModelBundle(folder: path))
        try verifier.verify()
    }
}
