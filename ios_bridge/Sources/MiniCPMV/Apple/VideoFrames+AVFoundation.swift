#if canImport(AVFoundation) && canImport(CoreGraphics)
    import AVFoundation
    import CoreGraphics

    extension VideoFrames {
        /// The frames of a video that the sampler chooses, upright, with their times.
        ///
        /// - Parameters:
        ///   - asset: a video with at least one frame.
        ///   - options: of the sampler.
        /// - Throws: `MiniCPMVError`: `invalidVideo` or `invalidOption`; `CancellationError`.
        public init(_ asset: AVAsset, options: VideoOptions = VideoOptions()) async throws {
            let times = try await Self.frameTimes(asset)
            let seconds = try await asset.load(.duration).seconds
            let fps = seconds > 0 ? Double(times.count) / seconds : 0
            let plan = try FramePlan(
                VideoInfo(frameCount: times.count, fps: fps), options: options)
            try self.init(
                try await Self.pictures(asset, at: plan.indices.map { times[$0] }),
                temporalIds: plan.temporalIds)
        }

        /// When each frame is shown, ascending. Counted, because rates that files state are
        /// averages at best.
        private static func frameTimes(_ asset: AVAsset) async throws -> [CMTime] {
            guard let track = try await asset.loadTracks(withMediaType: .video).first else {
                throw MiniCPMVError.noFrames
            }
            let reader: AVAssetReader
            do {
                reader = try AVAssetReader(asset: asset)
            } catch {
                throw MiniCPMVError.unreadableVideo(error.localizedDescription)
            }
            // Without settings, samples come as they are stored: nothing is decoded.
            let output = AVAssetReaderTrackOutput(track: track, outputSettings: nil)
            output.alwaysCopiesSampleData = false
            reader.add(output)
            guard reader.startReading() else {
                throw MiniCPMVError.unreadableVideo(
                    reader.error?.localizedDescription ?? "no reason given")
            }
            var times: [CMTime] = []
            while let sample = output.copyNextSampleBuffer() {
                try Task.checkCancellation()
                let time = sample.presentationTimeStamp
                if sample.numSamples > 0, time.isNumeric { times.append(time) }
            }
            return times.sorted()
        }

        private static func pictures(
            _ asset: AVAsset, at times: [CMTime]
        ) async throws -> [RGBImage] {
            let generator = AVAssetImageGenerator(asset: asset)
            generator.appliesPreferredTrackTransform = true
            generator.requestedTimeToleranceBefore = .zero
            generator.requestedTimeToleranceAfter = .zero
            var pictures: [RGBImage] = []
            for time in times {
                try Task.checkCancellation()
                do {
                    pictures.append(try RGBImage(try await generator.image(at: time).image))
                } catch let error as MiniCPMVError {
                    throw error
                } catch {
                    throw MiniCPMVError.unreadableVideo(error.localizedDescription)
                }
            }
            return pictures
        }
    }
#endif
