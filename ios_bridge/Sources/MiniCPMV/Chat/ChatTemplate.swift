/// Qwen3's chat template, written out: turns to pieces of a prompt, with a slot for every frame.
enum ChatTemplate {
    /// - Parameters:
    ///   - frameCounts: frames of each picture and video, in order.
    ///   - enableThinking: false closes the thoughts at once, true opens them, nil leaves it open.
    static func render(
        _ turns: [ChatTurn], frameCounts: [Int], enableThinking: Bool?
    ) -> [PromptItem] {
        var slots = Slots(frameCounts: frameCounts)
        let lastQuery = lastQuery(turns)
        var items: [PromptItem] = []
        for (index, turn) in turns.enumerated() {
            items += [.control(.messageStart), .text(turn.role.rawValue + "\n")]
            if turn.role == .assistant {
                items += answer(
                    turn, isAfterQuery: index > lastQuery, isLast: index == turns.count - 1)
            } else {
                items += content(turn, &slots)
            }
            items += [.control(.messageEnd), .text("\n")]
        }
        items += [.control(.messageStart), .text("assistant\n")]
        switch enableThinking {
        case false:
            items += [.control(.thinkStart), .text("\n\n"), .control(.thinkEnd), .text("\n\n")]
        case true: items += [.control(.thinkStart), .text("\n")]
        default: break
        }
        return items
    }

    /// Gives out the slots of one picture or video after the other.
    private struct Slots {
        let frameCounts: [Int]
        private var media = 0
        private var frame = 0

        init(frameCounts: [Int]) {
            self.frameCounts = frameCounts
        }

        mutating func next() -> [PromptItem] {
            let count = frameCounts[media]
            media += 1
            frame += count
            return (frame - count..<frame).map(PromptItem.slot)
        }
    }

    /// Parts of a message, and frames of a video, joined by line breaks.
    private static func content(_ turn: ChatTurn, _ slots: inout Slots) -> [PromptItem] {
        var items: [PromptItem] = []
        for part in turn.parts {
            switch part {
            case .text(let text): items.append(.text(text))
            case .media: items += slots.next()
            }
        }
        return Array(items.map { [$0] }.joined(separator: [.text("\n")]))
    }

    /// Index of the last question; the template takes a user's tool response for no question.
    private static func lastQuery(_ turns: [ChatTurn]) -> Int {
        let isQuery = { (turn: ChatTurn) in turn.role == .user && !isToolResponse(turn) }
        return turns.lastIndex(where: isQuery) ?? turns.count - 1
    }

    private static func isToolResponse(_ turn: ChatTurn) -> Bool {
        if case .media = turn.parts.first { return false }
        if case .media = turn.parts.last { return false }
        return turn.text.startsExactly(with: "<tool_response>")
            && turn.text.endsExactly(with: "</tool_response>")
    }

    /// An earlier answer: its thoughts are dropped unless it comes after the last question.
    private static func answer(
        _ turn: ChatTurn, isAfterQuery: Bool, isLast: Bool
    ) -> [PromptItem] {
        var content = turn.text
        var reasoning = turn.reasoning
        let pieces = content.splitExactly(by: "</think>")
        if reasoning == nil, pieces.count > 1, let first = pieces.first, let last = pieces.last {
            content = last.trimmingStart(where: Unicode.Scalar.isLineFeed)
            reasoning = first.trimmingEnd(where: Unicode.Scalar.isLineFeed)
                .splitExactly(by: "<think>").last?
                .trimmingStart(where: Unicode.Scalar.isLineFeed)
        }
        let thoughts = (reasoning ?? "").trimmingStart(where: Unicode.Scalar.isLineFeed)
            .trimmingEnd(where: Unicode.Scalar.isLineFeed)
        guard isAfterQuery, isLast || reasoning?.isEmpty == false else {
            return cutAnswer(content)
        }
        return [
            .control(.thinkStart), .text("\n\(thoughts)\n"), .control(.thinkEnd),
            .text("\n\n"),
        ] + cutAnswer(content.trimmingStart(where: Unicode.Scalar.isLineFeed))
    }

    /// Thoughts that a limit cut begin with the token that the model began them with.
    private static func cutAnswer(_ text: String) -> [PromptItem] {
        let tag = "<think>"
        guard text.startsExactly(with: tag) else { return [.text(text)] }
        return [
            .control(.thinkStart), .text(String(text.unicodeScalars.dropFirst(tag.count))),
        ]
    }
}
