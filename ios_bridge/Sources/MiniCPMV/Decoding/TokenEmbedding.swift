import Foundation

/// Token embeddings out of the bundle's table.
public struct TokenEmbedding: Sendable {
    private let table: MappedTable
    private let scales: MappedTable?

    /// Width of an embedding.
    public var width: Int { table.columns }

    /// Map the table.
    ///
    /// - Parameter locate: the file of a path of the manifest.
    public init(_ embedding: EmbeddingTable, locate: (String) throws -> URL) throws {
        table = try MappedTable(locate(embedding.table.path), embedding.table)
        scales = try embedding.scales.map { try MappedTable(locate($0.path), $0) }
        guard scales.map({ $0.rows == table.rows && $0.columns == 1 }) ?? true else {
            throw MiniCPMVError.invalidManifest(
                "The scales of embed_tokens are not one a token; export the bundle again.")
        }
    }

    /// Embeddings of `ids`, (ids, width), row by row.
    ///
    /// - Throws: `MiniCPMVError.modelFailure` for an id outside the table.
    public func rows(_ ids: [Int]) throws -> [Float] {
        try ids.flatMap { id in
            guard (0..<table.rows).contains(id) else {
                throw MiniCPMVError.modelFailure(
                    "The token \(id) has no embedding; the bundle has \(table.rows) of them.")
            }
            guard let scale = scales?.row(id)[0] else { return table.row(id) }
            return table.row(id).map { $0 * scale }
        }
    }
}
