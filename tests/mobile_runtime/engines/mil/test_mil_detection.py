"""Choosing boxes, against onnxruntime's operation of the same name."""

from __future__ import annotations

import numpy as np
import pytest

from mobile_runtime.engines.mil import MilEngine

ct = pytest.importorskip("coremltools")
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
from coremltools.converters.mil import Builder as mb  # noqa: E402

RNG = np.random.default_rng(9)
COUNT, MOST = 40, 12


def chosen_by_onnxruntime(boxes, scores, overlap, least):
    """Positions, best first, of boxes (b, 4) with one score each."""
    names = ("boxes", "scores", "most", "overlap", "least")
    node = onnx.helper.make_node("NonMaxSuppression", names, ["chosen"], center_point_box=1)
    values = (boxes[None], scores[None, None], np.int64([MOST]))
    values = (*values, np.float32([overlap]), np.float32([least]))
    inputs = [
        onnx.helper.make_tensor_value_info(
            name, onnx.helper.np_dtype_to_tensor_dtype(value.dtype), value.shape
        )
        for name, value in zip(names, values, strict=True)
    ]
    output = onnx.helper.make_tensor_value_info("chosen", onnx.TensorProto.INT64, [None, 3])
    graph = onnx.helper.make_graph([node], "boxes", inputs, [output])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    model.ir_version = 8
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (found,) = session.run(None, dict(zip(names, values, strict=True)))
    return found[:, 2].tolist()


def expected_positions(boxes, scores, overlap, least, per_class):
    best, classes = scores.max(-1), scores.argmax(-1)
    groups = [classes == n for n in range(scores.shape[1])] if per_class else [best == best]
    found = []
    for group in groups:
        own = np.flatnonzero(group)
        found += [own[n] for n in chosen_by_onnxruntime(boxes[own], best[own], overlap, least)]
    return sorted(found, key=lambda n: -best[n])[:MOST]


def filled(values, rows, fill=0):
    return np.concatenate([values, np.full((rows - len(values), *values.shape[1:]), fill)])


@pytest.mark.parametrize("per_class", [True, False])
@pytest.mark.parametrize("overlap", [0.05, 0.5])
@pytest.mark.parametrize("least", [None, 0.8])
def test_boxes_equal_onnxruntimes(least, overlap, per_class, save):
    boxes = RNG.uniform(2, 10, (2, COUNT, 4)).astype(np.float32)
    scores = RNG.permutation(2 * COUNT * 3).reshape(2, COUNT, 3).astype(np.float32) / (6 * COUNT)

    def build(boxes, scores):
        options = {} if least is None else {"score_threshold": np.float32(least)}
        return mb.non_maximum_suppression(
            boxes=boxes,
            scores=scores,
            iou_threshold=np.float32(overlap),
            max_boxes=MOST,
            per_class_suppression=per_class,
            **options,
        )

    given = {"boxes": boxes, "scores": scores}
    if least is None:  # boxes along the last axis
        given = {name: value.swapaxes(1, 2).copy() for name, value in given.items()}
    opset = ct.target.iOS17 if least is None else ct.target.iOS16
    engine = MilEngine(save(build, given, opset=opset), precision="fp32")
    results = [engine.run(given)[spec.name] for spec in engine.functions["main"].outputs]
    assert len(results) == (3 if least is None else 4)
    if least is None:
        results[:2] = (value.swapaxes(1, 2) for value in results[:2])
    for n in range(2):
        kept = expected_positions(
            boxes[n], scores[n], overlap, -1 if least is None else least, per_class
        )
        assert len(kept) > 0
        np.testing.assert_array_equal(results[0][n], filled(boxes[n, kept], MOST))
        np.testing.assert_array_equal(results[1][n], filled(scores[n, kept], MOST))
        np.testing.assert_array_equal(results[2][n], filled(np.array(kept), MOST, -1))
        assert least is None or results[3][n] == len(kept)


def test_the_best_box_stays_if_none_is_good_enough(save):
    """As in the reference of Apple's tests."""
    given = {"boxes": np.ones((1, 4, 4), np.float32), "scores": np.float32([[[1], [3], [2], [0]]])}

    def build(boxes, scores):
        limits = {"iou_threshold": np.float32(0.5), "score_threshold": np.float32(9)}
        return mb.non_maximum_suppression(boxes=boxes, scores=scores, max_boxes=2, **limits)

    engine = MilEngine(save(build, given, opset=ct.target.iOS16), precision="fp32")
    results = engine.run(given)
    np.testing.assert_array_equal(results["result_2"], [[1, -1]])
    np.testing.assert_array_equal(results["result_3"], [1])
