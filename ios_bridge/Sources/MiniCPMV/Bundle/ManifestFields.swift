/// The fields of one object of the manifest, read strictly: missing, unknown and mistyped fields
/// are refused with the place where they stand.
struct ManifestFields {
    private let place: String
    private let fields: [String: JSONValue]

    /// - Parameter names: exactly the fields that the object must have.
    init(_ value: JSONValue, at place: String, names: [String]) throws {
        guard let fields = value.object else {
            throw Self.mistyped(value, at: place, wanted: "an object")
        }
        let wrong = Set(names).symmetricDifference(fields.keys).sorted()
        guard wrong.isEmpty else {
            throw MiniCPMVError.invalidManifest(
                "\(place) in \(Manifest.fileName) has missing or unknown fields: "
                    + "\(wrong.joined(separator: ", ")); it needs exactly "
                    + "\(names.joined(separator: ", ")); export the bundle again.")
        }
        self.place = place
        self.fields = fields
    }

    static func mistyped(_ value: JSONValue, at place: String, wanted: String) -> MiniCPMVError {
        let shown = (value.string ?? value.text).unicodeScalars.prefix(80)
        var text = String.UnicodeScalarView()
        text.append(contentsOf: shown.map { $0 == "\n" ? " " : $0 })
        return .invalidManifest(
            "\(place) in \(Manifest.fileName) must be \(wanted), not '\(String(text))'; "
                + "export the bundle again.")
    }

    func value(_ name: String) -> JSONValue { fields[name] ?? .null }

    func place(_ name: String) -> String { "\(place).\(name)" }

    func string(_ name: String) throws -> String {
        try Self.string(value(name), at: place(name))
    }

    func integer(_ name: String) throws -> Int {
        try Self.integer(value(name), at: place(name))
    }

    func bool(_ name: String) throws -> Bool {
        guard let value = value(name).bool else {
            throw Self.mistyped(value(name), at: place(name), wanted: "a value of type bool")
        }
        return value
    }

    func double(_ name: String) throws -> Double {
        try Self.double(value(name), at: place(name))
    }

    func choice<Choice: RawRepresentable<String> & CaseIterable>(_ name: String) throws -> Choice {
        if let text = value(name).string, let choice = Choice(rawValue: text) { return choice }
        let all = Choice.allCases.map(\.rawValue).joined(separator: ", ")
        throw Self.mistyped(value(name), at: place(name), wanted: "one of \(all)")
    }

    func optional<Value>(
        _ name: String, _ read: (JSONValue, String) throws -> Value
    ) throws -> Value? {
        value(name) == .null ? nil : try read(value(name), place(name))
    }

    func list<Element>(
        _ name: String, count: Int? = nil, _ read: (JSONValue, String) throws -> Element
    ) throws -> [Element] {
        guard let elements = value(name).array else {
            throw Self.mistyped(value(name), at: place(name), wanted: "a list")
        }
        if let count, elements.count != count {
            throw Self.mistyped(value(name), at: place(name), wanted: "a list of \(count)")
        }
        return try elements.enumerated().map { try read($1, "\(place(name))[\($0)]") }
    }

    func table<Value>(
        _ name: String, _ read: (JSONValue, String) throws -> Value
    ) throws -> [String: Value] {
        guard let fields = value(name).object else {
            throw Self.mistyped(value(name), at: place(name), wanted: "an object")
        }
        return Dictionary(
            uniqueKeysWithValues: try fields.map {
                ($0.key, try read($0.value, "\(place(name)).\($0.key)"))
            })
    }

    static func string(_ value: JSONValue, at place: String) throws -> String {
        guard let text = value.string else {
            throw mistyped(value, at: place, wanted: "a value of type str")
        }
        return text
    }

    static func integer(_ value: JSONValue, at place: String) throws -> Int {
        guard let number = value.integer else {
            throw mistyped(value, at: place, wanted: "a value of type int")
        }
        return number
    }

    static func double(_ value: JSONValue, at place: String) throws -> Double {
        switch value {
        case .number(let number): return number
        case .integer(let number): return Double(number)
        default: throw mistyped(value, at: place, wanted: "a value of type float")
        }
    }
}
