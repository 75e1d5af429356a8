/// Chat messages to token ids: the chat template, image placeholders and video groups.
///
/// Messages and the slice grids of their pictures go in; ids, the places of the vision embeddings
/// and the views that belong there come out. It looks at no picture and holds no token id of its
/// own. Text never becomes a special token, whatever it spells, but those whose roles begin with
/// `text_`.
public struct PromptEncoder: Sendable {
    private let tokenizer: Tokenizer
    private let tokens: [ControlToken: SpecialToken]
    /// Special tokens that a text may spell, as published: places in a picture.
    private let textTokens: [SpecialToken]
    private let preprocessing: Preprocessing

    /// Check that the manifest names every special token and that the tokenizer agrees.
    ///
    /// - Throws: `MiniCPMVError.invalidTokenizer`.
    public init(
        tokenizer: Tokenizer, prompt: Prompt, preprocessing: Preprocessing
    ) throws {
        var tokens: [ControlToken: SpecialToken] = [:]
        for control in ControlToken.allCases {
            guard let token = prompt.specialTokens[control.rawValue] else {
                throw MiniCPMVError.invalidTokenizer(
                    "The manifest has no special token '\(control.rawValue)'; export again.")
            }
            tokens[control] = token
        }
        for token in prompt.specialTokens.values.sorted(by: { $0.id < $1.id }) {
            let found = try tokenizer.tokenId(token.content)
            guard found == token.id else {
                throw MiniCPMVError.invalidTokenizer(
                    "The manifest says that \(token.content) is \(token.id), the tokenizer "
                        + "\(found); export the bundle again.")
            }
        }
        self.tokenizer = tokenizer
        self.tokens = tokens
        textTokens = prompt.specialTokens.filter { $0.key.hasPrefix("text_") }.map(\.value)
        self.preprocessing = preprocessing
    }

    /// Encode a conversation and the opening of the answer.
    ///
    /// - Parameter media: one layout for each picture and video, in the order of the messages.
    /// - Throws: `MiniCPMVError.invalidMessage` or `invalidOption`.
    public func encode(
        _ turns: [ChatTurn], media: [MediaLayout] = [], options: PromptOptions = PromptOptions()
    ) throws -> EncodedPrompt {
        try ChatTurn.check(turns)
        let wanted = turns.reduce(0) { $0 + $1.media.count }
        guard wanted == media.count else {
            throw MiniCPMVError.invalidMessage(
                "The messages hold \(wanted) pictures and videos, \(media.count) layouts "
                    + "were given.")
        }
        let grids = media.flatMap(\.grids)
        let groups = try FrameGroups.make(media, temporalIds: options.temporalIds)
        let isNumbered = usesImageIds(media, options)
        var placeholders: [Int: [PromptItem]] = [:]
        var first = 0
        for group in groups {
            placeholders[first] = placeholder(isNumbered ? first : nil, grid: grids[first])
            first += group.count
        }
        let items = ChatTemplate.render(
            turns, frameCounts: media.map(\.grids.count), enableThinking: options.enableThinking)
        let views = try FrameGroups.views(of: groups, grids: grids)
        return encode(Self.place(items, placeholders), views)
    }

    private func usesImageIds(_ media: [MediaLayout], _ options: PromptOptions) -> Bool {
        options.useImageId
            ?? (preprocessing.useImageId && media.allSatisfy { $0.temporalIds == nil })
    }

    private func placeholder(_ imageId: Int?, grid: Grid?) -> [PromptItem] {
        let run = [PromptItem](
            repeating: .control(.imagePlaceholder), count: preprocessing.numQueries)
        var items: [PromptItem] = []
        if let imageId {
            items += [.control(.imageIdStart), .text(String(imageId)), .control(.imageIdEnd)]
        }
        items += [.control(.imageStart)] + run + [.control(.imageEnd)]
        for row in 0..<(grid?.rows ?? 0) {
            if row > 0 { items.append(.text("\n")) }
            for _ in 0..<(grid?.columns ?? 0) {
                items += [.control(.sliceStart)] + run + [.control(.sliceEnd)]
            }
        }
        return items
    }

    /// Put placeholders into slots. A slot without one is a later frame of its group: the chunk
    /// since the previous slot is stripped, which removes the newline that joined the frames.
    private static func place(
        _ items: [PromptItem], _ placeholders: [Int: [PromptItem]]
    ) -> [PromptItem] {
        var placed: [PromptItem] = []
        var chunk: [PromptItem] = []
        for item in items {
            guard case .slot(let frame) = item else {
                chunk.append(item)
                continue
            }
            if let placeholder = placeholders[frame] {
                placed += chunk + placeholder
            } else {
                placed += strip(chunk)
            }
            chunk = []
        }
        return placed + chunk
    }

    /// A chunk without white space at its ends; special tokens are none.
    private static func strip(_ chunk: [PromptItem]) -> [PromptItem] {
        var chunk = chunk[...]
        while case .text(let text) = chunk.first {
            let rest = text.trimmingStart(where: Unicode.Scalar.isSpace)
            chunk[chunk.startIndex] = .text(rest)
            if !rest.isEmpty { break }
            chunk.removeFirst()
        }
        while case .text(let text) = chunk.last {
            let rest = text.trimmingEnd(where: Unicode.Scalar.isSpace)
            chunk[chunk.endIndex - 1] = .text(rest)
            if !rest.isEmpty { break }
            chunk.removeLast()
        }
        return Array(chunk)
    }

    private func encode(_ items: [PromptItem], _ groups: [ViewGroup]) -> EncodedPrompt {
        var ids: [Int] = []
        var bounds: [Range<Int>] = []
        var shown = ""
        var text = ""
        var start = 0
        // Neighbouring texts are one to the tokenizer, as published.
        func encodeText() {
            ids += self.ids(of: text)
            shown += text
            text = ""
        }
        for item in items {
            switch item {
            case .text(let piece): text += piece
            case .slot: break
            case .control(let control):
                encodeText()
                if control == .imageEnd || control == .sliceEnd { bounds.append(start..<ids.count) }
                guard let token = tokens[control] else { continue }
                ids.append(token.id)
                if control == .imageStart || control == .sliceStart { start = ids.count }
                shown += token.content
            }
        }
        encodeText()
        return EncodedPrompt(inputIds: ids, imageBound: bounds, groups: groups, text: shown)
    }

    /// The ids of a text, with those of the tokens that texts may spell.
    private func ids(of text: String) -> [Int] {
        guard !textTokens.isEmpty else { return tokenizer.encode(text) }
        let scalars = text.unicodeScalars
        var ids: [Int] = []
        var place = scalars.startIndex
        var begin = place
        func encodePlain() {
            if begin < place { ids += tokenizer.encode(String(scalars[begin..<place])) }
        }
        while place < scalars.endIndex {
            let rest = scalars[place...]
            let spelled = textTokens.first { rest.starts(with: $0.content.unicodeScalars) }
            if let token = spelled {
                encodePlain()
                ids.append(token.id)
                place = scalars.index(place, offsetBy: token.content.unicodeScalars.count)
                begin = place
            } else {
                place = scalars.index(after: place)
            }
        }
        encodePlain()
        return ids
    }
}
