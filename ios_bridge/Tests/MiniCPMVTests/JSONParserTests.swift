import XCTest

@testable import MiniCPMV

final class JSONParserTests: XCTestCase {
    private func parse(_ text: String) throws -> JSONValue {
        try JSONValue(parsing: Array(text.utf8))
    }

    func testKindsOfNumbersStayApart() throws {
        XCTAssertEqual(try parse("[0,-1,1.0,1e2,true]"), .array([
            .integer(0), .integer(-1), .number(1), .number(100), .bool(true),
        ]))
        XCTAssertEqual(try parse("9223372036854775807"), .integer(.max))
        XCTAssertEqual(try parse("9223372036854775808"), .number(9_223_372_036_854_775_808))
    }

    func testEscapesAreDecoded() throws {
        XCTAssertEqual(
            try parse(#""\"\\\/\b\f\n\r\t\u00e9\ud83c\udf89é""#),
            .string("\"\\/\u{8}\u{c}\n\r\té🎉é"))
    }

    func testOfEqualNamesTheLastCounts() throws {
        XCTAssertEqual(try parse(#" { "a" : 1 , "a" : [ ] } "#), .object(["a": .array([])]))
    }

    func testWhatIsNoJSONIsRefused() {
        let texts = [
            "", " ", "{", "[", "[1,]", "{\"a\":1,}", "{\"a\"}", "{a:1}", "01", "-", "1.", ".5",
            "1e", "+1", "NaN", "tru", "nul", "\"", "\"\\x\"", "\"\\u12\"", "\"\\ud800\"",
            "\"\\ud800\\u0041\"", "\"\\udc00\"", "\"a\nb\"", "1 2", "[1]]", "'a'", "\u{feff}1",
            String(repeating: "[", count: 100_000),
        ]
        for text in texts {
            XCTAssertThrowsError(try parse(text), text) { XCTAssertTrue($0 is JSONError) }
        }
        XCTAssertThrowsError(try JSONValue(parsing: [0x22, 0xFF, 0x22]))
    }

    func testTextIsReadBackAsItWas() throws {
        let value = JSONValue.object([
            "a\"\\\u{1}": .array([.null, .bool(false), .integer(7), .number(0.5), .string("é\n")])
        ])
        XCTAssertEqual(try parse(value.text), value)
    }
}
