"""A classifier gives a label and a dictionary, with the types of coremltools' own predict."""

from __future__ import annotations

import numpy as np
import pytest

from mobile_runtime.engines.mil import MilEngine

torch = pytest.importorskip("torch")
ct = pytest.importorskip("coremltools")

LABELS = {"text": ["cat", "dog", "Käse 🧀"], "numbers": [7, 70, 700]}


def classifier(labels, path):
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Softmax(-1)).eval()
    converted = ct.convert(
        torch.jit.trace(model, torch.zeros(1, 4)),
        inputs=[ct.TensorType("x", (1, 4))],
        classifier_config=ct.ClassifierConfig(labels),
        compute_precision=ct.precision.FLOAT32,
        minimum_deployment_target=ct.target.iOS16,
        skip_model_load=True,
    )
    converted.save(str(path))
    return model


@pytest.mark.parametrize("kind", LABELS)
def test_a_label_and_its_probabilities_equal_torch(kind, tmp_path):
    labels = LABELS[kind]
    model = classifier(labels, tmp_path / "classifier.mlpackage")
    engine = MilEngine(tmp_path / "classifier.mlpackage", precision="fp32")
    (label, dictionary) = engine.functions["main"].outputs
    assert (label.dtype, dictionary.dtype) == (
        "string" if kind == "text" else "int64",
        "dictionary",
    )
    x = np.random.default_rng(1).standard_normal((1, 4)).astype(np.float32)
    with torch.no_grad():
        expected = model(torch.from_numpy(x))[0].numpy()
    results = engine.run({"x": x})
    assert results[label.name] == labels[int(expected.argmax())]
    assert type(results[label.name]) is type(labels[0])
    assert list(results[dictionary.name]) == labels
    found = list(results[dictionary.name].values())
    assert all(type(value) is float for value in found)
    np.testing.assert_allclose(found, expected, atol=1e-6)
