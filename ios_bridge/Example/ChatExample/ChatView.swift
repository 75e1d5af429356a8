import MiniCPMV
import SwiftUI

/// The conversation, what is attached to the next question, and the model's state.
struct ChatView: View {
    @Bindable var assistant: Assistant
    @State private var question = ""

    var body: some View {
        NavigationStack {
            VStack(spacing: 8) {
                Text(assistant.status).font(.footnote).foregroundStyle(.secondary)
                conversation
                Text(assistant.statistics).font(.caption).monospacedDigit()
                AttachmentBar(assistant: assistant)
                input
            }
            .padding()
            .navigationTitle("MiniCPM-V")
            .toolbar { tools }
        }
    }

    private var conversation: some View {
        ScrollView {
            LazyVStack(alignment: .leading, spacing: 12) {
                ForEach(assistant.lines) { line in
                    Text(line.text)
                        .textSelection(.enabled)
                        .frame(maxWidth: .infinity, alignment: line.isUser ? .trailing : .leading)
                        .foregroundStyle(line.isUser ? Color.accentColor : Color.primary)
                }
            }
        }
        .defaultScrollAnchor(.bottom)
    }

    private var input: some View {
        HStack {
            TextField("Question", text: $question, axis: .vertical)
                .textFieldStyle(.roundedBorder)
            if assistant.isAnswering {
                Button("Stop", systemImage: "stop.circle") { assistant.stop() }
            } else {
                Button("Ask", systemImage: "arrow.up.circle") { ask() }
                    .disabled(!assistant.isReady || question.isEmpty)
            }
        }
        .labelStyle(.iconOnly)
    }

    @ToolbarContentBuilder private var tools: some ToolbarContent {
        ToolbarItem {
            Toggle("Think", systemImage: "brain", isOn: $assistant.thinks)
        }
        ToolbarItem {
            Button("Self-test", systemImage: "checkmark.seal") {
                Task { await assistant.test() }
            }
            .disabled(!assistant.isReady)
        }
        if let file = assistant.reportFile {
            ToolbarItem { ShareLink(item: file) }
        }
    }

    private func ask() {
        let asked = question
        question = ""
        Task { await assistant.ask(asked) }
    }
}
