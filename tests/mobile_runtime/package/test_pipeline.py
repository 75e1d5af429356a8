"""Pipelines: models one after the other, and suppression as object detectors end with."""

import numpy as np
import pytest
from PIL import Image

from mobile_runtime import InputError, Package, describe_package
from mobile_runtime.cli import main
from mobile_runtime.package.suppression import suppress

ct = pytest.importorskip("coremltools")
torch = pytest.importorskip("torch")

RNG = np.random.default_rng(7)
CLASSES, BOXES = 3, 60


def naive(confidence, boxes, most_overlap, least_confidence, per_class):
    """The rules of NonMaximumSuppression.proto, box by box with corners, in Python's numbers."""
    corners = [
        (x - w / 2, y - h / 2, x + w / 2, y + h / 2) for x, y, w, h in boxes.astype(float).tolist()
    ]

    def overlap(a, b):
        width = min(a[2], b[2]) - max(a[0], b[0])
        height = min(a[3], b[3]) - max(a[1], b[1])
        shared = max(width, 0) * max(height, 0)
        areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
        return shared / (sum(areas) - shared) if sum(areas) > shared else 0

    best = [max(row) for row in confidence.astype(float).tolist()]
    label = [row.index(max(row)) for row in confidence.tolist()]
    order = sorted(range(len(best)), key=lambda n: -best[n])
    order = [n for n in order if best[n] >= least_confidence]
    kept = []
    for n in order:
        rivals = (k for k in kept if not per_class or label[k] == label[n])
        if all(overlap(corners[k], corners[n]) <= most_overlap for k in rivals):
            kept.append(n)
    return kept


def detections(count=BOXES):
    confidence = RNG.random((count, CLASSES)).astype(np.float32)
    centres, sizes = RNG.random((count, 2)), 0.05 + 0.4 * RNG.random((count, 2))
    return confidence, np.concatenate([centres, sizes], 1).astype(np.float32)


@pytest.mark.parametrize("per_class", [True, False])
@pytest.mark.parametrize("overlap", [0.0, 0.2, 0.45, 1.0])
@pytest.mark.parametrize("least", [0.0, 0.7, 2.0])
def test_suppression_is_that_of_the_published_rules(least, overlap, per_class):
    for _ in range(5):
        confidence, boxes = detections()
        kept = suppress(confidence, boxes, overlap, least, per_class)
        assert kept.tolist() == naive(confidence, boxes, overlap, least, per_class)


def test_suppression_of_boxes_whose_overlap_is_counted_by_hand():
    """The picture in NonMaximumSuppression.proto: 12 of 73 glyphs, 0.16."""
    boxes = np.array([[4.5, 2.5, 9, 5], [9, 4.5, 8, 5]], np.float32)  # 45 and 40 glyphs, 12 shared
    confidence = np.array([[0.9], [0.8]], np.float32)
    assert suppress(confidence, boxes, 12 / 73 + 1e-6, 0, True).tolist() == [0, 1]
    assert suppress(confidence, boxes, 12 / 73 - 1e-6, 0, True).tolist() == [0]


def test_no_boxes_and_boxes_without_an_area():
    nothing = np.zeros((0, 2), np.float32), np.zeros((0, 4), np.float32)
    assert suppress(*nothing, 0.5, 0.0, True).tolist() == []
    same = np.array([[1, 1, 0, 0], [1, 1, 0, 0]], np.float32)
    assert suppress(np.ones((2, 1), np.float32), same, 0.5, 0, True).tolist() == [0, 1]


class Detector(torch.nn.Module):
    """A picture to confidences (boxes, classes) and coordinates (boxes, 4)."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.conv = torch.nn.Conv2d(3, CLASSES + 4, 3, stride=2, padding=1)

    def forward(self, image):
        cells = self.conv(image)[0].flatten(1).transpose(0, 1).sigmoid()
        return cells[:, :CLASSES], cells[:, CLASSES:]


@pytest.fixture(scope="module")
def detector(convert):
    return convert(
        Detector(),
        [(1, 3, 16, 16)],
        [ct.ImageType("image", shape=(1, 3, 16, 16), scale=1 / 255)],
        "detector",
        outputs=[ct.TensorType("raw_confidence"), ct.TensorType("raw_coordinates")],
    )


def suppression(spec, rows=(0, -1)):
    """A suppression behind the detector, as exporters of detectors write it: thresholds that a
    call may override, and outputs of `rows` rows."""
    made = ct.proto.Model_pb2.Model(specificationVersion=5)
    for given, name, columns in zip(
        spec.description.output, ("confidence", "coordinates"), (CLASSES, 4), strict=True
    ):
        made.description.input.add().CopyFrom(given)
        output = made.description.output.add()
        output.CopyFrom(given)
        output.name = name
        del output.type.multiArrayType.shape[:]
        for low, high in (rows, (columns, columns)):
            size = output.type.multiArrayType.shapeRange.sizeRanges.add()
            size.lowerBound, size.upperBound = low, high
    nms = made.nonMaximumSuppression
    nms.confidenceInputFeatureName, nms.coordinatesInputFeatureName = (
        "raw_confidence",
        "raw_coordinates",
    )
    nms.confidenceOutputFeatureName, nms.coordinatesOutputFeatureName = "confidence", "coordinates"
    nms.iouThresholdInputFeatureName = "iouThreshold"
    nms.confidenceThresholdInputFeatureName = "confidenceThreshold"
    nms.iouThreshold, nms.confidenceThreshold = 0.45, 0.5
    nms.pickTop.perClass = True
    nms.stringClassLabels.vector.extend("abc")
    return made


@pytest.fixture(scope="module")
def pipeline_of(detector, tmp_path_factory):
    """pipeline_of(suppression) -> the path of a pipeline, saved by coremltools."""

    def run(made, name="pipeline"):
        first = ct.utils.load_spec(str(detector))
        number = ct.models.datatypes.Double()
        pipeline = ct.models.pipeline.Pipeline(
            [("image", ct.models.datatypes.Array(3, 16, 16))]
            + [(key, number) for key in ("iouThreshold", "confidenceThreshold")],
            ["confidence", "coordinates"],
        )
        pipeline.add_model(first)
        pipeline.add_model(made)
        pipeline.spec.description.input[0].CopyFrom(first.description.input[0])
        for ours, theirs in zip(
            pipeline.spec.description.output, made.description.output, strict=True
        ):
            ours.CopyFrom(theirs)
        pipeline.spec.specificationVersion = 8
        weights = detector / "Data/com.apple.CoreML/weights"
        model = ct.models.MLModel(pipeline.spec, weights_dir=str(weights), skip_model_load=True)
        path = tmp_path_factory.mktemp("pipeline") / f"{name}.mlpackage"
        model.save(str(path))
        return path

    return run


@pytest.fixture(scope="module")
def pipeline(pipeline_of, detector):
    return pipeline_of(suppression(ct.utils.load_spec(str(detector))))


PICTURE = Image.fromarray(RNG.integers(0, 256, (16, 16, 3), np.uint8))


def raw():
    """Confidences and coordinates of PyTorch."""
    pixels = torch.tensor(np.asarray(PICTURE).transpose(2, 0, 1)[None] / 255).float()
    with torch.no_grad():
        return [array.numpy() for array in Detector().eval()(pixels)]


@pytest.mark.parametrize(
    "thresholds",
    [
        {},
        {"iouThreshold": 0.1},
        {"confidenceThreshold": 0.6},
        {"iouThreshold": 1.0, "confidenceThreshold": 0.0},
    ],
    ids=str,
)
def test_a_detector_with_a_suppression_gives_the_boxes_that_are_left(thresholds, pipeline):
    confidence, boxes = raw()
    both = {"iouThreshold": 0.45, "confidenceThreshold": 0.5} | thresholds
    kept = naive(confidence, boxes, *both.values(), True)
    assert len(kept) > 1 and (len(kept) < len(boxes)) == (both["iouThreshold"] < 1)
    found = Package(pipeline, precision="fp32").predict({"image": PICTURE, **thresholds})
    assert list(found) == ["confidence", "coordinates"]
    np.testing.assert_allclose(found["confidence"], confidence[kept], atol=1e-6)
    np.testing.assert_allclose(found["coordinates"], boxes[kept], atol=1e-6)


@pytest.mark.parametrize(("rows", "count"), [((5, 5), 5), ((0, 4), 4), ((80, 90), 80)])
def test_outputs_have_as_many_rows_as_they_declare(rows, count, pipeline_of, detector):
    made = suppression(ct.utils.load_spec(str(detector)), rows)
    found = Package(pipeline_of(made, "rows"), precision="fp32").predict({"image": PICTURE})
    confidence, boxes = raw()
    kept = naive(confidence, boxes, 0.45, 0.5, True)[:count]
    assert found["confidence"].shape == (count, CLASSES)
    assert found["coordinates"].shape == (count, 4)
    np.testing.assert_allclose(found["confidence"][: len(kept)], confidence[kept], atol=1e-6)
    assert not found["confidence"][len(kept) :].any()
    assert not found["coordinates"][len(kept) :].any()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, r"needs the input image \(picture, 16 × 16\)"),
        ({"image": PICTURE.resize((8, 8))}, "a picture of 8 × 8"),
        ({"image": PICTURE, "threshold": 1}, "no input threshold; its inputs are image, iouThr"),
        ({"image": PICTURE, "iouThreshold": -1}, "got -1 for iouThreshold; give one number"),
        ({"image": PICTURE, "iouThreshold": [1, 2]}, "give one number"),
    ],
)
def test_mistakes_are_one_sentence(given, said, pipeline):
    with pytest.raises(InputError, match=said):
        Package(pipeline).predict(given)


def test_functions_and_values_inside_belong_to_programs(pipeline):
    for options in ({"function": "decode"}, {"keep": ["x"]}):
        with pytest.raises(InputError, match="is a pipeline, which has no functions to choose"):
            Package(pipeline).predict({"image": PICTURE}, **options)


def test_a_pipeline_is_described_with_its_models(pipeline, capsys):
    described = describe_package(pipeline)
    assert described.runs and described.model.kind == "pipeline"
    kinds = [part.model.kind for part in described.models.values()]
    assert kinds == ["mlProgram", "nonMaximumSuppression"]
    assert main(["describe", str(pipeline)]) == 0
    printed = capsys.readouterr().out
    for part in ("a pipeline, specification version 8", "a non-maximum suppression", "1 conv"):
        assert part in printed


def test_the_command_runs_a_pipeline(pipeline, tmp_path, capsys):
    PICTURE.save(tmp_path / "p.png")
    words = ["--input", f"image={tmp_path / 'p.png'}", "--input", "confidenceThreshold=0.6"]
    target = tmp_path / "out.npz"
    assert main(["run", str(pipeline), *words, "--output", str(target)]) == 0
    with np.load(target) as found:
        assert found["confidence"].max(axis=1).min() >= 0.6


def test_programs_in_a_chain_hand_pictures_and_arrays_on(convert, tmp_path):
    shape = (1, 3, 6, 10)
    negative = convert(
        lambda x: 255 - x,
        [shape],
        [ct.ImageType("image", shape=shape)],
        "negative",
        outputs=[ct.ImageType("negative", color_layout=ct.colorlayout.RGB)],
    )
    mean = convert(
        lambda x, gain: x.mean((2, 3)) * gain,
        [shape, (1, 3)],
        [ct.ImageType("negative", shape=shape), ct.TensorType("gain", shape=(1, 3))],
        "mean",
        outputs=[ct.TensorType("mean")],
    )
    models = [ct.models.MLModel(str(path), skip_model_load=True) for path in (negative, mean)]
    path = tmp_path / "chain.mlpackage"
    ct.utils.make_pipeline(*models).save(str(path))
    pixels, gain = RNG.integers(0, 256, (6, 10, 3), np.uint8), np.array([[1, 2, 3]], np.float32)
    outputs = Package(path, precision="fp32").predict({"image": pixels, "gain": gain})
    expected = (255 - pixels.astype(float)).mean((0, 1)) * gain
    np.testing.assert_allclose(outputs["mean"], expected, rtol=1e-5)


def test_a_pipeline_of_older_models_names_the_one_that_needs_core_ml(as_package):
    spec = ct.proto.Model_pb2.Model(specificationVersion=4)
    spec.pipeline.names.append("old")
    spec.pipeline.models.add().neuralNetwork.SetInParent()
    with pytest.raises(InputError, match="is a pipeline, and 'old' in it is a neural network"):
        Package(as_package(spec))


def test_pipelines_within_pipelines_end_somewhere(as_package):
    spec = ct.proto.Model_pb2.Model()
    inner = spec
    for _ in range(40):
        inner = inner.pipeline.models.add()
    inner.pipeline.SetInParent()
    with pytest.raises(InputError):
        Package(as_package(spec))
