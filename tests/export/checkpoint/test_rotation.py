"""Rotating the residual stream gives the same model in another basis."""

import numpy as np
import pytest

from export.checkpoint import open_source
from export.checkpoint.rotation import RotatedSource, Rotation
from export.models.tensors import EMBED_TOKENS, FINAL_NORM, LM_HEAD
from export.releases import describe_model
from tests.random_checkpoint import write_random_checkpoint
from validation.chats import default_chats
from validation.parity.trace import prepare_chat, trace_reference
from validation.reference.reference import Reference
from validation.sources import open_checkpoint, rotated


@pytest.mark.parametrize("size", [1, 2, 7, 12, 256, 576, 896, 1000, 4096])
def test_any_size_has_an_orthogonal_matrix_and_its_inverse(size):
    rotation = Rotation(size, seed=0)
    some = np.eye(size, dtype=np.float32)[:64]
    rows = rotation.apply(some)
    np.testing.assert_allclose(rows @ rows.T, np.eye(len(some)), atol=1e-5)
    np.testing.assert_allclose(rotation.undo(rows), some, atol=1e-5)
    if size > 2:
        assert np.abs(rows).max() < 2 / size**0.5, "a channel is spread over all others"


def test_another_seed_is_another_rotation():
    some = np.eye(64, dtype=np.float32)
    first, again, other = (Rotation(64, seed).apply(some) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_diagonal_part_is_that_before_the_rotation():
    rng = np.random.default_rng(0)
    rotation, x = Rotation(96, seed=0), rng.normal(size=(50, 96)).astype(np.float32)
    r = rotation.apply(np.eye(96, dtype=np.float32))
    moments = x.T @ x
    part = rotation.diagonal_part(rotation.apply(x).T @ rotation.apply(x))
    np.testing.assert_allclose(r @ part @ r.T, np.diag(moments.diagonal()), atol=1e-3)


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def folder(request, tmp_path_factory):
    """A checkpoint whose norms have gains of their own, one of them zero."""
    folder = tmp_path_factory.mktemp("rotated") / "checkpoint"
    write_random_checkpoint(folder, tie_word_embeddings=request.param)
    return folder


def test_logits_of_text_and_pictures_are_the_same(folder):
    """In float32, and parts of the model that are not in the stream are untouched."""
    source = open_checkpoint(str(folder))
    turned = rotated(source, seed=0)
    prompts = [prepare_chat(source, named.chat) for named in default_chats()]
    embeddings = [s.checkpoint.read_rows(EMBED_TOKENS, 0, 4) for s in (source, turned)]
    assert not np.allclose(*embeddings, atol=0.01)
    traces = [
        trace_reference(Reference(s.config, s.checkpoint), prompts, 2, s.chat_format)
        for s in (source, turned)
    ]
    for before, after in zip(*traces, strict=True):
        scale = np.abs(before["logits"]).max()
        np.testing.assert_allclose(after["logits"], before["logits"], atol=1e-4 * scale)


def test_what_is_read_by_rows_is_what_is_read_whole(folder):
    described, origin = describe_model(folder), open_source(folder)
    stream = described.release.residual_stream(described.config)
    source = RotatedSource(origin, stream, seed=0)
    writer = stream.writers[0]
    for name in (EMBED_TOKENS, LM_HEAD, writer, "resampler.proj", FINAL_NORM):
        whole, rows = source.read(name), source.tensors[name].row_count
        parts = [source.read_rows(name, n, n + 100) for n in range(0, rows, 100)]
        np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-6)
        assert whole.dtype == source.tensors[name].dtype == "float32"
    np.testing.assert_array_equal(source.read(FINAL_NORM), 1)
    untouched = "resampler.kv_proj.weight"
    np.testing.assert_array_equal(source.read(untouched), origin.read(untouched))


def test_a_rotated_tensor_is_never_taken_for_the_published_one(folder):
    described, origin = describe_model(folder), open_source(folder)
    stream = described.release.residual_stream(described.config)
    one, other = (RotatedSource(origin, stream, seed) for seed in (0, 1))
    for name in (*stream.rows, *stream.writers, *stream.readers, FINAL_NORM):
        if name in origin.tensors:
            assert one.identity(name) != origin.identity(name)
        assert one.identity(name) != other.identity(name)
    rows = one.tensors[EMBED_TOKENS].row_count
    assert one.digest(EMBED_TOKENS, 0, rows) != origin.digest(EMBED_TOKENS, 0, rows)
