#if canImport(CoreGraphics) && canImport(ImageIO)
    import CoreGraphics

    extension ChatSession {
        /// Ask the next question of the conversation about upright pictures.
        ///
        /// - Parameters:
        ///   - question: text, put after the pictures.
        ///   - images: upright pictures; see `RGBImage` for others, such as photos from files.
        ///   - options: for this answer.
        /// - Returns: a stream that throws `MiniCPMVError`.
        public nonisolated func stream(
            _ question: String, images: [CGImage], options: ChatOptions = ChatOptions()
        ) -> Answer {
            do {
                let pictures = try images.map { try RGBImage($0) }
                return stream(question, images: pictures, options: options)
            } catch {
                let answer = Answer()
                answer.fail(error)
                return answer
            }
        }
    }
#endif

#if canImport(AVFoundation) && canImport(CoreGraphics)
    import AVFoundation

    extension ChatSession {
        /// Ask the next question of the conversation about a video.
        ///
        /// - Parameters:
        ///   - question: text, put after the frames.
        ///   - asset: the video; its frames are chosen and read before this returns.
        ///   - sampling: which frames.
        ///   - options: for this answer.
        /// - Returns: a stream that throws `MiniCPMVError`.
        /// - Throws: `MiniCPMVError.invalidVideo`; `CancellationError`.
        public nonisolated func stream(
            _ question: String, asset: AVAsset, sampling: VideoOptions = VideoOptions(),
            options: ChatOptions = ChatOptions()
        ) async throws -> Answer {
            let video = try await VideoFrames(asset, options: sampling)
            return stream(question, video: video, options: options)
        }
    }
#endif
