/// SHA-256 (FIPS 180-4) over bytes that come in pieces, for platforms without CryptoKit.
struct SHA256Stream {
    private static let initial: [UInt32] = [
        0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a,
        0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19,
    ]
    private static let blockSize = 64

    private var state = Self.initial
    private var pending: [UInt8] = []
    private var count: UInt64 = 0

    /// Take more bytes.
    mutating func update(_ bytes: UnsafeRawBufferPointer) {
        count += UInt64(bytes.count)
        var rest = bytes[...]
        if !pending.isEmpty {
            let missing = Self.blockSize - pending.count
            pending += rest.prefix(missing)
            rest = rest.dropFirst(missing)
            guard pending.count == Self.blockSize else { return }
            pending.withUnsafeBytes { Self.compress(&state, $0) }
            pending.removeAll(keepingCapacity: true)
        }
        let whole = rest.count / Self.blockSize * Self.blockSize
        Self.compress(&state, UnsafeRawBufferPointer(rebasing: rest.prefix(whole)))
        pending += rest.dropFirst(whole)
    }

    /// The digest of everything taken, 32 bytes. More may follow.
    func digest() -> [UInt8] {
        var last = pending + [0x80]
        let zeros = (Self.blockSize + 56 - last.count % Self.blockSize) % Self.blockSize
        last += [UInt8](repeating: 0, count: zeros)
        last += withUnsafeBytes(of: (count * 8).bigEndian, Array.init)
        var final = state
        last.withUnsafeBytes { Self.compress(&final, $0) }
        return final.flatMap { withUnsafeBytes(of: $0.bigEndian, Array.init) }
    }

    private static func compress(_ state: inout [UInt32], _ blocks: UnsafeRawBufferPointer) {
        withUnsafeTemporaryAllocation(of: UInt32.self, capacity: 64) { schedule in
            state.withUnsafeMutableBufferPointer { state in
                constants.withUnsafeBufferPointer { constants in
                    for start in stride(from: 0, to: blocks.count, by: blockSize) {
                        let block = UnsafeRawBufferPointer(
                            rebasing: blocks[start..<start + blockSize])
                        expand(block, into: schedule)
                        mix(schedule, constants, into: state)
                    }
                }
            }
        }
    }

    /// The message schedule of one block: 16 words read, 48 made.
    @inline(__always)
    private static func expand(
        _ block: UnsafeRawBufferPointer, into words: UnsafeMutableBufferPointer<UInt32>
    ) {
        for n in 0..<16 {
            words[n] = UInt32(
                bigEndian: block.loadUnaligned(fromByteOffset: 4 * n, as: UInt32.self))
        }
        for n in 16..<64 {
            let w15 = words[n - 15]
            let w2 = words[n - 2]
            let sigma0 = rotate(w15, 7) ^ rotate(w15, 18) ^ (w15 >> 3)
            let sigma1 = rotate(w2, 17) ^ rotate(w2, 19) ^ (w2 >> 10)
            words[n] = words[n - 16] &+ sigma0 &+ words[n - 7] &+ sigma1
        }
    }

    @inline(__always)
    private static func mix(
        _ words: UnsafeMutableBufferPointer<UInt32>, _ constants: UnsafeBufferPointer<UInt32>,
        into state: UnsafeMutableBufferPointer<UInt32>
    ) {
        var (a, b, c, d) = (state[0], state[1], state[2], state[3])
        var (e, f, g, h) = (state[4], state[5], state[6], state[7])
        for n in 0..<64 {
            let sum1 = rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)
            let choice = (e & f) ^ (~e & g)
            let first = h &+ sum1 &+ choice &+ constants[n] &+ words[n]
            let sum0 = rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)
            let majority = (a & b) ^ (a & c) ^ (b & c)
            (h, g, f, e) = (g, f, e, d &+ first)
            (d, c, b, a) = (c, b, a, first &+ sum0 &+ majority)
        }
        state[0] &+= a
        state[1] &+= b
        state[2] &+= c
        state[3] &+= d
        state[4] &+= e
        state[5] &+= f
        state[6] &+= g
        state[7] &+= h
    }

    @inline(__always)
    private static func rotate(_ word: UInt32, _ bits: UInt32) -> UInt32 {
        (word >> bits) | (word << (32 - bits))
    }

    private static let constants: [UInt32] = [
        0x428a_2f98, 0x7137_4491, 0xb5c0_fbcf, 0xe9b5_dba5, 0x3956_c25b, 0x59f1_11f1,
        0x923f_82a4, 0xab1c_5ed5, 0xd807_aa98, 0x1283_5b01, 0x2431_85be, 0x550c_7dc3,
        0x72be_5d74, 0x80de_b1fe, 0x9bdc_06a7, 0xc19b_f174, 0xe49b_69c1, 0xefbe_4786,
        0x0fc1_9dc6, 0x240c_a1cc, 0x2de9_2c6f, 0x4a74_84aa, 0x5cb0_a9dc, 0x76f9_88da,
        0x983e_5152, 0xa831_c66d, 0xb003_27c8, 0xbf59_7fc7, 0xc6e0_0bf3, 0xd5a7_9147,
        0x06ca_6351, 0x1429_2967, 0x27b7_0a85, 0x2e1b_2138, 0x4d2c_6dfc, 0x5338_0d13,
        0x650a_7354, 0x766a_0abb, 0x81c2_c92e, 0x9272_2c85, 0xa2bf_e8a1, 0xa81a_664b,
        0xc24b_8b70, 0xc76c_51a3, 0xd192_e819, 0xd699_0624, 0xf40e_3585, 0x106a_a070,
        0x19a4_c116, 0x1e37_6c08, 0x2748_774c, 0x34b0_bcb5, 0x391c_0cb3, 0x4ed8_aa4a,
        0x5b9c_ca4f, 0x682e_6ff3, 0x748f_82ee, 0x78a5_636f, 0x84c8_7814, 0x8cc7_0208,
        0x90be_fffa, 0xa450_6ceb, 0xbef9_a3f7, 0xc671_78f2,
    ]
}
