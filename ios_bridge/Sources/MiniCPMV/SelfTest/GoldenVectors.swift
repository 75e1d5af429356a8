import Foundation

/// What PyTorch computes for a few chats, stored in a bundle's `golden` folder.
struct GoldenVectors: Sendable {
    /// One chat as `chats.json` has it.
    struct Chat: Decodable, Sendable {
        /// Its name; arrays are called `name.stage`.
        let name: String
        /// Files of its pictures, in the folder.
        let pictures: [String]
        /// Token ids of the prompt.
        let inputIds: [Int]
        /// Begin and end of the placeholders of each group.
        let imageBound: [[Int]]
        /// Times of the frames of each group.
        let temporalIds: [[Int]]
        /// Rows and columns of patches of every view, group by group.
        let tgtSizes: [[Int]]
        /// The tokens that PyTorch goes on with.
        let greedyTokens: [Int]
    }

    /// The folder in a bundle.
    static let folder = "golden"
    let chats: [Chat]
    let arrays: SafetensorsFile

    /// - Parameter locate: the file of a path of the bundle.
    /// - Throws: `MiniCPMVError`: `missingFile` or `damagedFile`.
    init(locate: (String) throws -> URL) throws {
        guard let url = try? locate("\(Self.folder)/chats.json"),
            let data = try? Data(contentsOf: url)
        else {
            throw MiniCPMVError.missingFile(
                "The bundle has no golden vectors; write them with "
                    + "`python -m validation parity BUNDLE --write-golden`.")
        }
        let decoder = JSONDecoder()
        decoder.keyDecodingStrategy = .convertFromSnakeCase
        do {
            chats = try decoder.decode([Chat].self, from: data)
        } catch {
            throw MiniCPMVError.damagedFile(
                "\(url.path) is no list of golden chats; write them again with "
                    + "`python -m validation parity BUNDLE --write-golden`.")
        }
        arrays = try SafetensorsFile(try locate("\(Self.folder)/arrays.safetensors"))
        for chat in chats { try chat.check() }
    }

    /// The array of one stage of a chat.
    func tensor(_ chat: Chat, _ stage: String) throws -> Tensor {
        try arrays.tensor("\(chat.name).\(stage)")
    }
}

extension GoldenVectors.Chat {
    /// Placeholders of each group.
    var bounds: [Range<Int>] { imageBound.map { $0[0]..<$0[1] } }

    /// Sizes in patches of the views of each group.
    var groupSizes: [[Grid]] {
        var start = 0
        return temporalIds.map { ids in
            defer { start += max(ids.count, 1) }
            return tgtSizes[start..<start + max(ids.count, 1)].map {
                Grid(columns: $0[1], rows: $0[0])
            }
        }
    }

    fileprivate func check() throws {
        let views = temporalIds.reduce(0) { $0 + max($1.count, 1) }
        let isWhole =
            imageBound.count == temporalIds.count && views == tgtSizes.count
            && tgtSizes.allSatisfy { $0.count == 2 && $0.allSatisfy { (1...1 << 16).contains($0) } }
            && imageBound.allSatisfy {
                $0.count == 2 && 0 <= $0[0] && $0[0] <= $0[1] && $0[1] <= inputIds.count
            }
        guard isWhole, !inputIds.isEmpty else {
            throw MiniCPMVError.damagedFile(
                "The golden chat \(name) contradicts itself; write it again with "
                    + "`python -m validation parity BUNDLE --write-golden`.")
        }
    }
}
