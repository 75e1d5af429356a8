import Foundation
import MiniCPMV

/// The arguments after a subcommand's name: values in order, options `--name` and `--name value`.
struct Arguments {
    let values: [String]
    private let options: [String: String]

    /// Split `arguments`. `flags` take no value, `options` take one; anything else with two dashes,
    /// or a wrong number of values, is refused with `usage`.
    init(
        _ arguments: [String], values names: [String], flags: Set<String> = [],
        options known: Set<String> = [], usage: String
    ) throws {
        var values: [String] = []
        var options: [String: String] = [:]
        var rest = arguments[...]
        while let argument = rest.popFirst() {
            guard argument.hasPrefix("--") else {
                values.append(argument)
                continue
            }
            let name = String(argument.dropFirst(2))
            if flags.contains(name) {
                options[name] = ""
            } else if known.contains(name), let value = rest.popFirst() {
                options[name] = value
            } else {
                throw MiniCPMVError.invalidOption(
                    "\(argument) is unknown or lacks its value; use: minicpmv \(usage)")
            }
        }
        guard values.count == names.count else {
            throw MiniCPMVError.invalidOption(
                "\(values.count) values were given, \(names.count) are needed; "
                    + "use: minicpmv \(usage)")
        }
        self.values = values
        self.options = options
    }

    /// Whether the flag `name` was given.
    func has(_ name: String) -> Bool { options[name] != nil }

    /// The text after `--name`, if it was given.
    func text(_ name: String) -> String? { options[name] }

    /// The whole number after `--name`; refuses anything else.
    func integer(_ name: String) throws -> Int? {
        guard let text = options[name] else { return nil }
        guard let value = Int(text) else {
            throw MiniCPMVError.invalidOption("--\(name) needs a whole number, not '\(text)'.")
        }
        return value
    }
}
