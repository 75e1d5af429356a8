import XCTest

@testable import MiniCPMV

/// Outputs of the authors' C code: splitmix64.c from 1234567, xoshiro256starstar.c from 1, 2, 3, 4.
final class XoshiroTests: XCTestCase {
    func testSplitMixEqualsThePublishedCode() {
        var words = SplitMix64(seed: 1_234_567)
        XCTAssertEqual(
            (0..<5).map { _ in words.nextWord() },
            [
                6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423,
                4_593_380_528_125_082_431, 16_408_922_859_458_223_821,
            ])
    }

    func testXoshiroEqualsThePublishedCode() {
        var generator = Xoshiro256StarStar(state: (1, 2, 3, 4))
        XCTAssertEqual(
            (0..<10).map { _ in generator.nextWord() },
            [
                11520, 0, 1_509_978_240, 1_215_971_899_390_074_240, 1_216_172_134_540_287_360,
                607_988_272_756_665_600, 16_172_922_978_634_559_625, 8_476_171_486_693_032_832,
                10_595_114_339_597_558_777, 2_904_607_092_377_533_576,
            ])
    }

    func testSeedIsExpandedBySplitMix() {
        var byHand = Xoshiro256StarStar(
            state: (
                6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423,
                4_593_380_528_125_082_431
            ))
        var seeded = Xoshiro256StarStar(seed: 1_234_567)
        for _ in 0..<5 { XCTAssertEqual(byHand.nextWord(), seeded.nextWord()) }
    }

    func testFractionsAreTheUpper53Bits() {
        var words = Xoshiro256StarStar(seed: 5)
        var fractions = words
        for _ in 0..<100 {
            XCTAssertEqual(fractions.nextFraction(), Double(words.nextWord() >> 11) / 0x1p53)
        }
    }

    func testGeneratorsWithoutASeedDiffer() {
        var (one, other) = (Xoshiro256StarStar(seed: nil), Xoshiro256StarStar(seed: nil))
        XCTAssertNotEqual(one.nextWord(), other.nextWord())
    }
}

final class SamplerTests: XCTestCase {
    func testPenaltyTouchesEachGeneratedTokenOnce() {
        XCTAssertEqual(Sampler.penalized([2, -2, 0, 5], [0, 0, 1, 2], 2), [1, -4, 0, 5])
    }

    func testTemperatureZeroTakesTheBestTokenAfterThePenalty() throws {
        var sampler = try Sampler(
            temperature: 0, topK: 100, topP: 0.8, repetitionPenalty: 1.5, seed: 0)
        XCTAssertEqual(try sampler.nextToken([1, 3, 2.5], generated: []), 1)
        XCTAssertEqual(try sampler.nextToken([1, 3, 2.5], generated: [1]), 2)
        XCTAssertEqual(try sampler.nextToken([4, 4, 4], generated: []), 0)
    }

    func testTopPDropsWhatSumsToExactlyTheRest() {
        let (ids, probabilities) = Sampler.candidates(
            [0, 0, 0, 0], temperature: 1, topK: 0, topP: 0.75)
        XCTAssertEqual(ids, [1, 2, 3])
        XCTAssertEqual(probabilities, [0.25, 0.25, 0.25])
    }

    func testTinyTopPKeepsTheBestToken() {
        let (ids, _) = Sampler.candidates([1, 3, 2], temperature: 1, topK: 0, topP: 1e-17)
        XCTAssertEqual(ids, [1])
    }

    func testTopKKeepsTies() {
        let (ids, _) = Sampler.candidates([1, 3, 3, 2], temperature: 1, topK: 1, topP: 1)
        XCTAssertEqual(ids, [1, 2])
    }

    func testThresholdIsTheOneOfASort() {
        var generator = Xoshiro256StarStar(seed: 1)
        for count in [1, 2, 3, 10, 99, 100] {
            let scores = (0..<100).map { _ in Float(generator.nextWord() % 37) }
            XCTAssertEqual(
                LargestScores.threshold(scores, count: count), scores.sorted(by: >)[count - 1])
        }
    }

    func testScoresThatAreNoNumbersAreRefused() throws {
        var sampler = try Sampler(temperature: 1, topK: 0, topP: 1, repetitionPenalty: 1)
        for logits in [[], [1, .nan]] as [[Float]] {
            XCTAssertThrowsError(try sampler.nextToken(logits, generated: []))
        }
    }
}
