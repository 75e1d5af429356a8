import SwiftUI

/// A chat with a bundle: photo, camera frame, video, thinking switch, statistics, self-test.
@main
struct ExampleApp: App {
    @State private var assistant = Assistant()

    var body: some Scene {
        WindowGroup {
            ChatView(assistant: assistant)
                .task { await assistant.open() }
        }
    }
}
