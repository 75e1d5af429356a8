import CoreTransferable
import MiniCPMV
import PhotosUI
import SwiftUI
import UniformTypeIdentifiers

/// Adds a photo, a frame of the camera or a video to the next question.
struct AttachmentBar: View {
    let assistant: Assistant
    @State private var photo: PhotosPickerItem?
    @State private var clip: PhotosPickerItem?
    @State private var showsCamera = false

    var body: some View {
        HStack {
            PhotosPicker("Photo", selection: $photo, matching: .images)
            PhotosPicker("Video", selection: $clip, matching: .videos)
            Button("Camera") { showsCamera = true }
            Spacer()
            Text(attached).font(.caption)
        }
        .onChange(of: photo) { _, picked in
            Task {
                if let data = try? await picked?.loadTransferable(type: Data.self) {
                    assistant.attach(data)
                }
            }
        }
        .onChange(of: clip) { _, picked in
            Task {
                if let movie = try? await picked?.loadTransferable(type: Movie.self) {
                    await assistant.attachVideo(movie.url)
                }
            }
        }
        .sheet(isPresented: $showsCamera) {
            CameraView { image in
                assistant.images.append(image)
                showsCamera = false
            }
        }
    }

    private var attached: String {
        let frames = assistant.video.map { ", \($0.frames.count) frames" } ?? ""
        return assistant.images.isEmpty && frames.isEmpty
            ? "" : "\(assistant.images.count) pictures\(frames)"
    }
}

/// A video of the photo library, copied to where it can be read.
struct Movie: Transferable {
    let url: URL

    static var transferRepresentation: some TransferRepresentation {
        FileRepresentation(contentType: .movie) { movie in
            SentTransferredFile(movie.url)
        } importing: { received in
            let copy = URL.temporaryDirectory
                .appending(path: "\(UUID().uuidString).\(received.file.pathExtension)")
            try FileManager.default.copyItem(at: received.file, to: copy)
            return Movie(url: copy)
        }
    }
}
