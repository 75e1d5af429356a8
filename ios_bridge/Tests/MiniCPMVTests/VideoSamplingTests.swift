import XCTest

@testable import MiniCPMV

final class VideoSamplingTests: XCTestCase {
    func testFramesAreTheCentresOfEqualSegments() throws {
        // 2 s at 5 of 20 frames a second: 10 segments of 4 frames.
        let plan = try FramePlan(VideoInfo(frameCount: 40, fps: 20))
        XCTAssertEqual(plan.indices, Array(stride(from: 2, to: 40, by: 4)))
    }

    func testIdsCountTenthsOfASecondWithThePublishedRounding() throws {
        let plan = try FramePlan(
            VideoInfo(frameCount: 165, fps: 10), options: VideoOptions(chooseFps: 10))
        let ids = plan.temporalIds.flatMap { $0 }
        let differing = ids.enumerated().filter { $0.offset != $0.element }.map { [$0, $1] }
        // The published sampler truncates k · 0.1 / 0.1, which float64 puts below some k.
        XCTAssertEqual(differing, [[43, 42], [81, 80], [86, 85], [91, 90], [162, 161]])
    }

    func testForcedPackingIsCapped() throws {
        let info = VideoInfo(frameCount: 50, fps: 10)  // 25 frames
        let two = try FramePlan(info, options: VideoOptions(forcePacking: 2))
        XCTAssertEqual(
            two.temporalIds.map(\.count), [Int](repeating: 2, count: 12) + [1])
        let three = try FramePlan(info, options: VideoOptions(forcePacking: 6))
        XCTAssertEqual(three.temporalIds.map(\.count).max(), 3)
    }

    func testImpossiblePlansAreRefused() {
        for (count, fps, options) in [
            (0, 30, VideoOptions()), (10, 0, VideoOptions()), (10, .infinity, VideoOptions()),
            (10, .nan, VideoOptions()), (10, 1e-300, VideoOptions()),
            (10, 30, VideoOptions(chooseFps: 0)), (10, 30, VideoOptions(maxNumFrames: 0)),
            (10, 30, VideoOptions(maxNumPacking: 7)), (10, 30, VideoOptions(forcePacking: 0)),
        ] as [(Int, Double, VideoOptions)] {
            XCTAssertThrowsError(
                try FramePlan(VideoInfo(frameCount: count, fps: fps), options: options))
        }
    }

    func testFramesWithoutTimesStandAloneUntilThereAreTooMany() throws {
        XCTAssertEqual(try FramePlan.groupsOfFrames(count: 3), [[0], [1], [2]])
        XCTAssertEqual(try FramePlan.groupsOfFrames(count: 181).first, [0, 1])
        XCTAssertEqual(try FramePlan.groupsOfFrames(count: 1080).last?.count, 6)
        XCTAssertThrowsError(try FramePlan.groupsOfFrames(count: 1081))
    }
}
