"""What a format asks of a manifest and of the options, and what a cache that cannot be cut back
costs a session."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from mobile_runtime.bundle import read_manifest
from mobile_runtime.cli import main
from mobile_runtime.engines import EngineOptions
from mobile_runtime.errors import InputError
from mobile_runtime.files import sealed_json
from mobile_runtime.model.formats import FORMATS, engine_of, format_of
from mobile_runtime.session import ChatOptions, Session
from tests.mobile_runtime.turns import gradient, user


@pytest.fixture(scope="module")
def manifest(make_bundle):
    return read_manifest(make_bundle())


@pytest.fixture(scope="module")
def onnx_manifest(make_onnx_bundle):
    return read_manifest(make_onnx_bundle())


def test_a_format_chooses_its_first_engine_and_keeps_another(manifest, onnx_manifest):
    assert engine_of(manifest, EngineOptions()) == "mil"
    assert engine_of(manifest, EngineOptions("coreml")) == "coreml"
    assert engine_of(onnx_manifest, EngineOptions()) == "onnx"


@pytest.mark.parametrize(("name", "text"), [("onnx", "mil or coreml"), ("none", "does not run")])
def test_an_engine_of_another_format_is_refused(name, text, manifest):
    with pytest.raises(InputError, match=text):
        engine_of(manifest, EngineOptions(name))


@pytest.mark.parametrize("table", ["embed_tokens", "position_embeddings", "resampler_key_query"])
def test_a_core_ml_manifest_without_a_table_is_refused(table, manifest):
    with pytest.raises(InputError, match=f"needs the table {table}"):
        format_of(replace(manifest, **{table: None}))


@pytest.mark.parametrize("role", ["vision_encoder", "resampler", "decoder", "lm_head"])
def test_a_core_ml_manifest_without_a_graph_is_refused(role, manifest):
    graphs = tuple(graph for graph in manifest.graphs if graph.role != role)
    with pytest.raises(InputError, match=f"of the role {role}, its manifest names none"):
        format_of(replace(manifest, graphs=graphs))


@pytest.mark.parametrize("role", ["vision_encoder", "resampler", "embed_tokens", "decoder"])
def test_an_onnx_manifest_with_two_graphs_of_a_role_is_refused(role, onnx_manifest):
    graphs = (*onnx_manifest.graphs, *onnx_manifest.graphs_of(role))
    with pytest.raises(InputError, match=f"one graph of the role {role}"):
        format_of(replace(onnx_manifest, graphs=graphs))


def test_an_unknown_format_is_refused_with_the_known_ones(manifest):
    with pytest.raises(InputError, match=f"this program runs {', '.join(FORMATS)}"):
        format_of(replace(manifest, format="abacus"))


def test_the_commands_say_what_a_manifest_lacks(make_bundle, tmp_path, capsys):
    bundle = tmp_path / "bundle"
    shutil.copytree(make_bundle(), bundle)
    text = (make_bundle() / "manifest.json").read_text(encoding="utf-8")
    value = json.loads(text.replace('"role": "resampler"', '"role": "vision_encoder"'))
    del value["digest"]
    (bundle / "manifest.json").write_bytes(sealed_json(value))
    for command in (["chat", str(bundle), "Hi"], ["info", str(bundle)]):
        assert main(command) == 2
        error = capsys.readouterr().err
        assert "of the role resampler" in error and len(error.splitlines()) == 1


class _Recurrent:
    """A decoder whose cache can only go on or be emptied, as a recurrent state."""

    def __init__(self, decoder):
        self._decoder, self._filled, self.starts = decoder, 0, []

    def reset(self):
        self._filled = 0
        self._decoder.reset()

    def rewind(self, position):
        if position != self._filled:
            self.reset()
        return self._filled

    def next_logits(self, embeddings, position):
        assert position == self._filled
        self.starts.append(position)
        self._filled += len(embeddings)
        return self._decoder.next_logits(embeddings, position)


def test_a_session_starts_where_the_cache_can_be_cut_back_to(make_bundle):
    def answers(recurrent):
        session = Session.load(make_bundle("int8"))
        if recurrent:
            session.model = replace(session.model, decoder=_Recurrent(session.model.decoder))
        options = ChatOptions(temperature=0, repetition_penalty=1.0, max_new_tokens=4)
        first = [user(gradient(200, 300), "One?")]
        streams = []
        for messages in (first, [user("Other?")], first):
            streams.append(session.chat(messages, options))
            list(streams[-1])
        reused = [stream.statistics.reused_tokens for stream in streams]
        return [stream.token_ids for stream in streams], reused

    expected, reused = answers(recurrent=False)
    got, none = answers(recurrent=True)
    assert got == expected
    assert np.any(np.array(reused) > 0) and none == [0, 0, 0]
