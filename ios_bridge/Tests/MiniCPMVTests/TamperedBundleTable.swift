import Foundation

@testable import MiniCPMV

/// `tests/tampered_bundles.json`, and the edits that it names.
struct Table {
    struct Case {
        let name: String
        /// Name of the case of `MiniCPMVError`.
        let error: String
        /// What the sentence must contain.
        let text: String
        let edit: JSONValue
    }

    struct Malformed: Error {
        let what: String
    }

    let files: [String: String]
    let cases: [Case]
    private let manifest: JSONValue

    init() throws {
        let value = try JSONValue(
            parsing: Data(contentsOf: Repository.url("tests/tampered_bundles.json")))
        let fields = value.object ?? [:]
        files = (fields["files"]?.object ?? [:]).compactMapValues(\.string)
        manifest = fields["manifest"] ?? .null
        cases = try (fields["cases"]?.array ?? []).map { item in
            guard let fields = item.object, let name = fields["name"]?.string,
                let error = fields["error"]?.string, let text = fields["text"]?.string,
                let edit = fields["edit"]
            else { throw Malformed(what: item.text) }
            return Case(name: name, error: error, text: text, edit: edit)
        }
    }

    /// Write the intact bundle into a new folder.
    func write(in folder: URL, named name: String) throws -> URL {
        let bundle = folder.appendingPathComponent(name).appendingPathComponent("bundle")
        for (path, text) in files {
            let url = bundle.appendingPathComponent(path)
            try FileManager.default.createDirectory(
                at: url.deletingLastPathComponent(), withIntermediateDirectories: true)
            try Data(text.utf8).write(to: url)
        }
        try write(manifest, to: bundle)
        return bundle
    }

    private func write(_ manifest: JSONValue, to bundle: URL) throws {
        let url = bundle.appendingPathComponent(Manifest.fileName)
        guard manifest.object != nil else { return try Data(manifest.text.utf8).write(to: url) }
        let rest = Data("\",\(manifest.text.dropFirst())".utf8)
        let seal = "{\n \"digest\": \"" + FileDigest.hexadecimal(of: rest)
        try (Data(seal.utf8) + rest).write(to: url)
    }

    /// Damage the bundle as a case's `edit` says.
    func tamper(_ bundle: URL, _ edit: JSONValue) throws {
        guard let (kind, argument) = edit.object?.first else { throw Malformed(what: edit.text) }
        let parts = argument.array ?? []
        switch (kind, argument) {
        case ("set", _):
            let path = parts[0].array ?? []
            try write(Self.replacing(manifest, path[...], with: parts[1]), to: bundle)
        case ("delete", _):
            try write(Self.replacing(manifest, parts[...], with: nil), to: bundle)
        case ("link", _):
            let name = parts[0].string ?? ""
            try link(bundle.appendingPathComponent(name), to: parts[1].string ?? "")
        case (_, .string(let path)):
            try damage(bundle.appendingPathComponent(path), kind)
        default: throw Malformed(what: edit.text)
        }
    }

    private func damage(_ url: URL, _ kind: String) throws {
        switch kind {
        case "remove", "folder":
            try FileManager.default.removeItem(at: url)
            guard kind == "folder" else { return }
            try FileManager.default.createDirectory(at: url, withIntermediateDirectories: false)
        case "write": try Data().write(to: url)
        case "append": try (Data(contentsOf: url) + Data(" ".utf8)).write(to: url)
        case "unseal":
            try (Data("{".utf8) + Data(contentsOf: url).dropFirst(80)).write(to: url)
        case "truncate":
            let data = try Data(contentsOf: url)
            try data.prefix(data.count / 2).write(to: url)
        case "flip":
            var data = try Data(contentsOf: url)
            data[data.count / 2] ^= 1
            try data.write(to: url)
        default: throw Malformed(what: kind)
        }
    }

    private func link(_ url: URL, to target: String) throws {
        let outside = url.deletingLastPathComponent().deletingLastPathComponent()
            .appendingPathComponent("outside")
        try FileManager.default.moveItem(at: url, to: outside)
        try FileManager.default.createSymbolicLink(
            at: url, withDestinationURL: target == "outside" ? outside : url)
    }

    /// `value` with the field at `path` replaced, or removed.
    private static func replacing(
        _ value: JSONValue, _ path: ArraySlice<JSONValue>, with new: JSONValue?
    ) throws -> JSONValue {
        guard let key = path.first else { return new ?? .null }
        let rest = path.dropFirst()
        switch (value, key) {
        case (.object(var fields), .string(let name)):
            let isEnd = rest.isEmpty && new == nil
            let inner = fields[name] ?? .null
            fields[name] = isEnd ? nil : try replacing(inner, rest, with: new)
            return .object(fields)
        case (.array(var elements), .integer(let index)) where elements.indices.contains(index):
            elements[index] = try replacing(elements[index], rest, with: new)
            return .array(elements)
        default: throw Malformed(what: key.text)
        }
    }
}

/// Files of the repository that the tests read where they lie.
enum Repository {
    static func url(_ path: String) -> URL {
        URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .deletingLastPathComponent().deletingLastPathComponent()
            .appendingPathComponent(path)
    }
}

extension MiniCPMVError {
    /// The name of the case.
    var caseName: String {
        Mirror(reflecting: self).children.first?.label ?? ""
    }
}
