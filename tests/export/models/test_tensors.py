"""Names and shapes of the checkpoint, against the published index and the PyTorch module."""

import json
import math

import pytest

from export.models.tensors import tensor_shapes
from export.releases import parse_config
from validation.reference.minicpmv import build_empty


def count(shapes, prefix):
    return sum(math.prod(shape) for name, shape in shapes.items() if name.startswith(prefix))


def test_published_counts(published_model):
    shapes = tensor_shapes(published_model)
    assert len(shapes) == 849
    assert 2 * count(shapes, "") == 17_391_790_560
    assert count(shapes, "llm.") == 8_189_195_264
    assert count(shapes, "vpm.") == 417_792_240
    assert count(shapes, "resampler.") == 88_907_776


def test_published_names(shared, published_model):
    text = (shared / "upstream/model.safetensors.index.json").read_text(encoding="utf-8")
    assert set(tensor_shapes(published_model)) == set(json.loads(text)["weight_map"])


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_key_value_heads": 4, "head_dim": 64},
        {"hidden_size": 512, "num_hidden_layers": 3, "query_num": 16},
        {"drop_vision_last_layer": True},
    ],
)
def test_shapes_are_those_of_the_module(published_values, changes):
    config = parse_config(published_values | changes)
    parameters = build_empty(config).named_parameters()
    assert tensor_shapes(config) == {name: tuple(p.shape) for name, p in parameters}


def test_tied_checkpoint_holds_no_head(published_values, published_model):
    tied = tensor_shapes(parse_config(published_values | {"tie_word_embeddings": True}))
    assert tensor_shapes(published_model).keys() - tied.keys() == {"llm.lm_head.weight"}
