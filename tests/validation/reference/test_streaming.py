"""Parity of a model larger than memory: weights in turn, and only those that a stage needs."""

import json
import sys

import numpy as np
import pytest

from export.backends.coreml import CoreMLBackend
from export.checkpoint.checkpoint import Checkpoint
from export.checkpoint.source import content_sha256
from export.cli import main as export_main
from export.models.tensors import EMBED_TOKENS
from mobile_runtime.bundle import read_manifest
from mobile_runtime.engines import EngineOptions
from mobile_runtime.errors import InputError
from tests.random_checkpoint import write_random_checkpoint
from validation.chats import default_chats
from validation.cli import main
from validation.parity import parity
from validation.parity.meter import Meter
from validation.parity.parity import ParityOptions, run_parity, wanted_stages
from validation.parity.stages import bundle_stages
from validation.reference.continuation import continue_texts
from validation.reference.loaded import LoadedWeights
from validation.reference.reference import LOADED_BYTES, Reference
from validation.sources import open_checkpoint

CONTEXT = 320
ALONE = ["vision_encoder", "resampler", "embeddings", "decoder_01of02", "decoder_02of02", "lm_head"]


@pytest.fixture(scope="module")
def source(random_checkpoint):
    opened = open_checkpoint(str(random_checkpoint))
    content_sha256(opened.checkpoint)  # parity asks for it; from here on it is known
    return opened


@pytest.fixture(scope="module")
def cut_bundle(random_checkpoint, tmp_path_factory):
    """Every layer in a package of its own; parity has to cut the plan in the same way."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CoreMLBackend, "max_package_bytes", 550_000)
        output = tmp_path_factory.mktemp("cut")
        arguments = ["coreml", "--checkpoint", str(random_checkpoint), "--output", str(output)]
        arguments += ["--quant", "int4-fast", "--context-length", str(CONTEXT)]
        assert export_main([*arguments, "--quiet"]) == 0
        yield next(output.iterdir())


def run(bundle, source, stages, new_tokens=3):
    options = ParityOptions(EngineOptions(precision="fp32"), new_tokens, stages)
    report = run_parity(bundle, source, default_chats(), options)
    return {stage.stage: stage for stage in report.stages}


@pytest.fixture
def reads(monkeypatch):
    """Names of the tensors read so far, with the number of rows."""
    found = []
    read, read_rows = Checkpoint.read, Checkpoint.read_rows

    def note_read(self, name):
        found.append((name, self.tensors[name].row_count))
        return read(self, name)

    def note_rows(self, name, begin, end):
        found.append((name, end - begin))
        return read_rows(self, name, begin, end)

    monkeypatch.setattr(Checkpoint, "read", note_read)
    monkeypatch.setattr(Checkpoint, "read_rows", note_rows)
    return found


def layers_of(reads):
    names = [name.split(".") for name, _ in reads if name.startswith("llm.model.layers.")]
    return {int(parts[3]) for parts in names}


def test_without_memory_for_weights_the_figures_are_the_same(cut_bundle, source, monkeypatch):
    kept = run(cut_bundle, source, None)
    monkeypatch.setattr(parity, "LOADED_BYTES", 0)
    streamed = run(cut_bundle, source, None)
    assert {stage.status for stage in kept.values()} == {"passed"}
    for name, stage in kept.items():
        other = streamed[name]
        assert (other.same_weights_db, other.checkpoint_db) == (
            stage.same_weights_db,
            stage.checkpoint_db,
        )
        assert other.metrics == stage.metrics


@pytest.mark.parametrize("name", ALONE)
def test_every_package_can_be_compared_alone(cut_bundle, source, name):
    stages = run(cut_bundle, source, [name])
    ran = {stage.stage for stage in stages.values() if stage.status != "not run"}
    assert ran == {"logits" if name == "lm_head" else name}
    assert all(stages[stage].status == "passed" for stage in ran)


@pytest.mark.parametrize(("name", "layers"), [("decoder_01of02", {0}), ("decoder_02of02", {0, 1})])
def test_package_loads_the_layers_up_to_its_own_end_once(
    cut_bundle, source, name, layers, reads, monkeypatch
):
    monkeypatch.setattr(parity, "LOADED_BYTES", 0)
    run(cut_bundle, source, [name])
    assert layers_of(reads) == layers
    assert not [tensor for tensor, _ in reads if tensor.startswith("llm.lm_head")]
    assert {rows for tensor, rows in reads if tensor == EMBED_TOKENS} == {1}
    own = f"llm.model.layers.{max(layers)}.mlp.up_proj.weight"
    times = sum(tensor == own for tensor, _ in reads)
    assert times == 2  # for the checkpoint, and to be quantized


def test_vision_alone_loads_no_decoder_and_embeddings_alone_nothing_else(cut_bundle, source, reads):
    run(cut_bundle, source, ["vision_encoder"])
    assert {name.split(".")[0] for name, _ in reads} == {"vpm"}
    reads.clear()
    run(cut_bundle, source, ["embeddings"])
    assert {name for name, _ in reads} == {EMBED_TOKENS}


def test_a_run_stage_says_what_it_took(cut_bundle, source):
    stages = run(cut_bundle, source, ["embeddings"])
    assert stages["embeddings"].seconds > 0
    assert stages["embeddings"].peak_bytes > 1 << 20
    assert stages["vision_encoder"].seconds is None


def test_stage_names_are_those_of_stages_and_packages(cut_bundle):
    stages = bundle_stages(read_manifest(cut_bundle))
    assert wanted_stages(stages, ["lm_head", "vision_encoder_01of02"]) == {
        "logits",
        "vision_encoder",
    }
    with pytest.raises(InputError, match=r"no stage decoder; there are preprocessing, .*lm_head"):
        wanted_stages(stages, ["decoder", "logits"])


def test_unknown_stage_is_refused_before_anything_is_read(
    cut_bundle, random_checkpoint, reads, capsys
):
    arguments = ["parity", str(cut_bundle), "--checkpoint", str(random_checkpoint)]
    assert main([*arguments, "--stages", "decoder_03of02"]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: no stage decoder_03of02; there are ")
    assert "decoder_02of02" in message
    assert message.count("\n") == 1
    assert reads == []


@pytest.fixture
def texts(source):
    rng = np.random.default_rng(0)
    shapes = [(n, source.config.decoder.hidden_size) for n in (5, 9)]
    return [rng.standard_normal(shape, dtype=np.float32) for shape in shapes]


def test_texts_continued_together_are_what_they_are_alone(source, texts):
    reference = Reference(source.config, source.checkpoint)
    together = continue_texts(reference, texts, [6, 3])
    for text, limit, found in zip(texts, [6, 3], together, strict=True):
        (alone,) = continue_texts(reference, [text], [limit])
        assert found.tokens == alone.tokens
        assert len(found.tokens) == limit
        np.testing.assert_allclose(found.logits, alone.logits, rtol=1e-4, atol=1e-5)
    stop = together[0].tokens[1]
    (stopped,) = continue_texts(reference, texts[:1], [6], [stop])
    assert stopped.tokens == together[0].tokens[: together[0].tokens.index(stop) + 1]


def test_layers_are_loaded_once_for_all_texts(source, texts, reads):
    reference = Reference(source.config, source.checkpoint, LoadedWeights(0))
    layers = range(source.config.decoder.num_layers)
    streamed = reference.run_layers([*map(reference.start, texts)], layers)
    names = [name for name, _ in reads]
    assert len(names) == len(set(names))
    kept = Reference(source.config, source.checkpoint)
    for text, rows in zip(texts, streamed, strict=True):
        (expected,) = kept.run_layers([kept.start(text)], layers)
        np.testing.assert_array_equal(rows.hidden, expected.hidden)


def test_a_tied_head_is_the_embedding_table(tmp_path):
    write_random_checkpoint(tmp_path / "tied", tie_word_embeddings=True)
    tied = open_checkpoint(str(tmp_path / "tied"))
    reference = Reference(tied.config, tied.checkpoint)
    hidden = np.random.default_rng(1).standard_normal((3, 256), dtype=np.float32)
    table = tied.checkpoint.read(EMBED_TOKENS).astype(np.float64)
    gain = tied.checkpoint.read("llm.model.norm.weight").astype(np.float64)
    normed = hidden / np.sqrt(np.square(hidden).mean(-1, keepdims=True) + 1e-6) * gain
    np.testing.assert_allclose(reference.logits(hidden), normed @ table.T, rtol=1e-4, atol=1e-4)


def test_loaded_weights_stay_within_their_budget():
    loaded, made = LoadedWeights(10), []

    def get(key, nbytes):
        return loaded.get(key, nbytes, lambda: made.append(key) or key)

    assert [get("a", 4), get("b", 4), get("a", 4)] == ["a", "b", "a"]
    assert made == ["a", "b"]
    get("c", 4)  # in place of b, which was used before a
    assert loaded.nbytes == 8
    get("a", 4)
    assert made == ["a", "b", "c"]
    get("large", 11)
    assert loaded.nbytes == 11
    get("a", 4)
    assert loaded.nbytes == 4


def test_references_never_hold_more_than_the_budget_in_weights(cut_bundle, source, monkeypatch):
    budget, held = 6_000_000, []
    get = LoadedWeights.get

    def watch(self, key, nbytes, load):
        value = get(self, key, nbytes, load)
        held.append((self.nbytes, nbytes))
        return value

    monkeypatch.setattr(LoadedWeights, "get", watch)
    monkeypatch.setattr(parity, "LOADED_BYTES", budget)
    run(cut_bundle, source, None)
    assert max(nbytes for _, nbytes in held) < budget < LOADED_BYTES
    assert budget / 2 < max(total for total, _ in held) <= budget


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the peak is that of the process")
def test_meter_sees_memory_that_is_given_back():
    with Meter() as before:
        pass
    with Meter() as meter:
        np.ones(1 << 25)  # 256 MB
    with Meter() as after:
        pass
    assert meter.peak_bytes - before.peak_bytes > 200_000_000
    assert after.peak_bytes < meter.peak_bytes - 200_000_000
    assert meter.seconds > 0


def test_report_holds_time_and_memory(cut_bundle, random_checkpoint, tmp_path, capsys):
    output = tmp_path / "report.json"
    arguments = ["parity", str(cut_bundle), "--checkpoint", str(random_checkpoint)]
    assert main([*arguments, "--stages", "embeddings", "--output", str(output)]) == 0
    assert " GB" in capsys.readouterr().out
    stages = {stage["stage"]: stage for stage in json.loads(output.read_text())["stages"]}
    assert stages["embeddings"]["seconds"] > 0
    assert stages["embeddings"]["peak_bytes"] > 0
    assert stages["logits"]["peak_bytes"] is None
