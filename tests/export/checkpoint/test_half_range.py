"""Dividing the residual stream and leaving key biases out gives the same model."""

from dataclasses import replace

import numpy as np
import pytest

from export.checkpoint import open_source
from export.checkpoint.half_range import HalfRangeSource
from export.checkpoint.source import content_sha256
from export.cli import main
from export.models.tensors import EMBED_TOKENS, FINAL_NORM, LM_HEAD
from export.quant.recipe import QuantSpec
from export.quant.weights import BlockWeight, DenseWeight, LutWeight, RowWeight, pack_indices
from export.releases import describe_model
from tests.random_checkpoint import write_random_checkpoint
from validation.chats import default_chats
from validation.parity.trace import prepare_chat, trace_reference
from validation.reference.reference import Reference
from validation.sources import fitted, open_checkpoint, rotated

KEY_BIAS = "vpm.encoder.layers.0.self_attn.k_proj.bias"
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("divided") / "checkpoint"
    write_random_checkpoint(folder, tie_word_embeddings=request.param)
    return folder


def test_logits_of_text_and_pictures_are_the_same(folder):
    """In float32, alone and on top of a rotation; the stream itself is 64 times as small."""
    source = open_checkpoint(str(folder))
    divided = fitted(source, 64)
    assert divided.config.decoder.stream_eps == 1e-6 / 4096
    prompts = [prepare_chat(source, named.chat) for named in default_chats()[:1]]
    before, *others = (
        trace_reference(Reference(s.config, s.checkpoint), prompts, 2, s.chat_format)[0]
        for s in (source, divided, fitted(rotated(source, seed=0), 64))
    )
    scale = np.abs(before["logits"]).max()
    for after in others:
        np.testing.assert_allclose(after["logits"], before["logits"], atol=1e-4 * scale)
    embeddings = [s.checkpoint.read_rows(EMBED_TOKENS, 0, 4) for s in (source, divided)]
    np.testing.assert_array_equal(embeddings[1].astype(np.float32) * 64, embeddings[0])


def test_only_what_writes_into_the_stream_and_key_biases_change(folder):
    described, origin = describe_model(folder), open_source(folder)
    change = described.release.half_range(described.config)
    biases, changed = change.cancelled, change.divided
    assert KEY_BIAS in biases and len(biases) == described.config.vision.num_layers
    source = HalfRangeSource(origin, change, 4)
    for name, info in source.tensors.items():
        stored = name if name in origin.tensors else change.tied[name]
        values, expected = source.read(name), origin.read(stored)
        factor = 0 if name in biases else 0.25 if name in changed else 1
        np.testing.assert_array_equal(values, factor * expected.astype(np.float32))
        assert values.dtype == info.dtype
        np.testing.assert_array_equal(source.read_rows(name, 1, 3), values[1:3])
        same = source.digest(name, 0, len(values)) == origin.digest(stored, 0, len(values))
        assert same == (factor == 1), name
        assert (source.identity(name) == origin.identity(stored)) == (factor == 1), name
    assert LM_HEAD in source.tensors and FINAL_NORM not in changed
    assert content_sha256(source) != content_sha256(HalfRangeSource(origin, change, 8))


INDICES = pack_indices(RNG.integers(0, 4, (4, 8)), 2)
Q = RNG.integers(-8, 8, (4, 8)).astype(np.int8)
SCALES = RNG.uniform(0.5, 1, (4, 2)).astype(np.float32)


@pytest.mark.parametrize(
    "weight",
    [
        LutWeight(INDICES, RNG.normal(size=(2, 4)).astype(np.float16), 2, 2, (4, 8)),
        RowWeight(Q, SCALES[:, :1].astype(np.float16), None, 4),
        BlockWeight(Q, SCALES, SCALES, 4),
        DenseWeight(RNG.normal(size=(4, 8)).astype(np.float16)),
    ],
    ids=lambda weight: weight.form,
)
def test_finished_weights_are_divided_in_their_form(folder, weight):
    described = describe_model(folder)
    change = described.release.half_range(described.config)
    writer, reader = change.divided[-1], "llm.model.layers.0.self_attn.q_proj.weight"
    spec = QuantSpec(form=weight.form, bits=4)

    class Finished:
        def __init__(self):
            self.tensors = open_source(folder).tensors
            self.weights = {writer: spec, reader: spec}

        def read(self, name):
            raise AssertionError("not read as floats")

        def read_rows(self, name, begin, end):
            return self.read(name)

        def identity(self, name):
            return (1,)

        def digest(self, name, begin, end):
            return ""

        def read_weight(self, name, begin, end):
            return weight

    source = HalfRangeSource(Finished(), change, 8)
    assert source.weights.keys() >= {writer, reader}
    divided = source.read_weight(writer, 0, 4)
    assert divided.layout == weight.layout
    np.testing.assert_array_equal(divided.dequantize(), weight.dequantize() / 8)
    assert source.read_weight(reader, 0, 4) is weight


@pytest.mark.parametrize("divisor", ["0", "3", "2048", "-8"])
def test_a_divisor_that_is_no_power_of_two_is_refused(folder, divisor, tmp_path, capsys):
    given = ["--checkpoint", str(folder), "--output", str(tmp_path / "out")]
    assert main(["coreml", *given, "--fit-half", divisor]) == 2
    assert f"--fit-half {divisor} is not possible; give a power of two" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_description_is_of_the_divided_model(folder):
    source = open_checkpoint(str(folder))
    decoder = fitted(source, 8).config.decoder
    expected = replace(source.config.decoder, stream_divisor=8, tie_word_embeddings=False)
    assert decoder == expected
