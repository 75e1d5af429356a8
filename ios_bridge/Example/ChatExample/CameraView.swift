@preconcurrency import AVFoundation
import MiniCPMV
import SwiftUI

/// Takes one frame of the camera: `RGBImage` reads its pixel buffer.
struct CameraView: View {
    let take: (RGBImage) -> Void
    @State private var camera = Camera()
    @State private var error = ""

    var body: some View {
        VStack {
            Text(error.isEmpty ? "Point the camera and take a frame." : error)
            Button("Take") {
                do {
                    if let image = try camera.latestImage() { take(image) }
                } catch {
                    self.error = error.localizedDescription
                }
            }
            .buttonStyle(.borderedProminent)
        }
        .padding()
        .task { await camera.start() }
        .onDisappear { camera.stop() }
    }
}

/// Keeps the latest frame of the back camera.
///
/// `@unchecked`: the session is used on `queue` alone, the frame under `lock`.
final class Camera: NSObject, AVCaptureVideoDataOutputSampleBufferDelegate, @unchecked Sendable {
    private let session = AVCaptureSession()
    private let queue = DispatchQueue(label: "camera")
    private let lock = NSLock()
    private var frame: CVPixelBuffer?

    func start() async {
        guard await AVCaptureDevice.requestAccess(for: .video) else { return }
        queue.async { [self] in
            configure()
            session.startRunning()
        }
    }

    func stop() {
        queue.async { [self] in session.stopRunning() }
    }

    /// The latest frame; held upright, the camera's frames lie on their left side.
    func latestImage() throws -> RGBImage? {
        guard let frame = lock.withLock({ frame }) else { return nil }
        return try RGBImage(frame, orientation: .right)
    }

    private func configure() {
        guard session.inputs.isEmpty, let device = AVCaptureDevice.default(for: .video),
            let input = try? AVCaptureDeviceInput(device: device)
        else { return }
        session.beginConfiguration()
        session.addInput(input)
        let output = AVCaptureVideoDataOutput()
        output.setSampleBufferDelegate(self, queue: queue)
        session.addOutput(output)
        session.commitConfiguration()
    }

    func captureOutput(
        _ output: AVCaptureOutput, didOutput sampleBuffer: CMSampleBuffer,
        from connection: AVCaptureConnection
    ) {
        guard let buffer = sampleBuffer.imageBuffer else { return }
        lock.withLock { frame = buffer }
    }
}
