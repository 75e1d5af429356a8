import AVFoundation
import Foundation
import MiniCPMV
import Observation

/// The model and one conversation, as the views show them.
@MainActor
@Observable
final class Assistant {
    struct Line: Identifiable {
        let id = UUID()
        let isUser: Bool
        var text: String
    }

    private(set) var lines: [Line] = []
    private(set) var status = "No model"
    private(set) var statistics = ""
    private(set) var isAnswering = false
    private(set) var reportFile: URL?
    var thinks = false
    var images: [RGBImage] = []
    var video: VideoFrames?

    private var model: MiniCPMV?
    private var session: ChatSession?
    private var answer: Answer?

    /// The folder `Bundle` among the app's documents: put it there with Finder or the Files app.
    private var folder: URL {
        URL.documentsDirectory.appending(path: "Bundle", directoryHint: .isDirectory)
    }

    var isReady: Bool { session != nil && !isAnswering }

    func open() async {
        guard model == nil else { return }
        do {
            let configuration = Configuration(progress: { [weak self] state in
                Task { @MainActor [weak self] in self?.show(state) }
            })
            let opened = try await MiniCPMV.load(bundle: folder, configuration: configuration)
            model = opened
            session = try opened.chat()
        } catch {
            status = error.localizedDescription
        }
    }

    func ask(_ question: String) async {
        guard let session, !isAnswering else { return }
        isAnswering = true
        defer { isAnswering = false }
        lines.append(Line(isUser: true, text: question))
        lines.append(Line(isUser: false, text: ""))
        let answer = session.stream(
            question, images: images, video: video,
            options: ChatOptions(enableThinking: thinks))
        self.answer = answer
        (images, video) = ([], nil)
        do {
            for try await piece in answer {
                lines[lines.count - 1].text += piece
                show(answer.statistics)
            }
        } catch {
            lines[lines.count - 1].text = error.localizedDescription
        }
        show(answer.statistics)
        self.answer = nil
    }

    func stop() {
        answer?.cancel()
    }

    func attach(_ data: Data) {
        do {
            images.append(try RGBImage(data: data))
        } catch {
            status = error.localizedDescription
        }
    }

    func attachVideo(_ url: URL) async {
        do {
            video = try await VideoFrames(AVURLAsset(url: url))
        } catch {
            status = error.localizedDescription
        }
    }

    /// Runs the golden vectors, and leaves a file to share.
    func test() async {
        guard let model, !isAnswering else { return }
        isAnswering = true
        defer { isAnswering = false }
        status = "Testing"
        do {
            session = nil
            let report = try await model.selfTest()
            let file = URL.documentsDirectory.appending(path: "self-test.json")
            try report.json().write(to: file, options: .atomic)
            reportFile = file
            try await model.prewarm()
            session = try model.chat()
        } catch {
            status = error.localizedDescription
        }
    }

    private func show(_ state: ModelState) {
        switch state {
        case .unpacking(let fraction): status = "Unpacking, \(percent(fraction))"
        case .verifying(let fraction): status = "Verifying, \(percent(fraction))"
        case .compiling(let package, let fraction):
            status = "Compiling \(package), \(percent(fraction))"
        case .loading(let package, let fraction):
            status = "Loading \(package), \(percent(fraction))"
        case .ready: status = "Ready"
        case .unloaded: status = "Unloaded"
        }
    }

    private func show(_ found: Statistics) {
        let speed = found.tokensPerSecond.formatted(.number.precision(.fractionLength(1)))
        let first = found.secondsToFirstToken.formatted(.number.precision(.fractionLength(2)))
        let memory = Int64(found.peakMemoryBytes).formatted(.byteCount(style: .memory))
        statistics =
            "\(found.newTokens) tokens, \(speed) a second, first after \(first) s, \(memory)"
    }

    private func percent(_ fraction: Double) -> String {
        fraction.formatted(.percent.precision(.fractionLength(0)))
    }
}
