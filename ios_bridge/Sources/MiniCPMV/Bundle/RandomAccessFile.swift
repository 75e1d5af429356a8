import Foundation

/// A file that is read at any place, into buffers of one's own.
final class RandomAccessFile: Sendable {
    /// In bytes.
    let size: Int
    private let descriptor: Int32

    /// - Throws: `MiniCPMVError.missingFile`.
    init(_ url: URL) throws {
        descriptor = open(url.path, O_RDONLY)
        guard descriptor >= 0, let size = BundleFile.size(at: url) else {
            throw MiniCPMVError.missingFile("\(url.path) cannot be read; give a file.")
        }
        self.size = size
    }

    deinit {
        close(descriptor)
    }

    /// Bytes from `offset` on; fewer than `count` only at the end of the file.
    func read(at offset: Int, count: Int) throws -> [UInt8] {
        guard offset >= 0, offset <= size, count > 0 else { return [] }
        return try [UInt8](unsafeUninitializedCapacity: min(count, size - offset)) { buffer, done in
            while done < buffer.count {
                let start = buffer.baseAddress.map { $0 + done }
                let read = pread(descriptor, start, buffer.count - done, off_t(offset + done))
                guard read >= 0 else { throw CocoaError(.fileReadUnknown) }
                guard read > 0 else { return }
                done += read
            }
        }
    }
}
