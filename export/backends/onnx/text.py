"""The text model, for programs without pictures: token ids in, logits out.

One more graph over the data of the embeddings and the decoder, with the names that optimum and
transformers.js use, and the configurations by which these and onnxruntime-genai know it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, numpy_helper

from export.backends.base import Specs
from export.backends.onnx.profile import Profile
from export.backends.onnx.write import emit, model_proto
from export.graphs.graph import Function, Graph, Value
from mobile_runtime.bundle import PAST, PRESENT, Manifest

TEXT_MODEL = "model.onnx"  # token ids to logits, as optimum and transformers.js name it
_LAST = 1  # positions with logits; onnxruntime-genai infers this from the fixed length


def text_graph(embed: Graph, decoder: Graph) -> Graph:
    """Join embeddings and decoder into one graph; logits only of the last position."""
    (embedding,), (function,) = embed.functions, decoder.functions

    def body(ops: Any, inputs: Mapping[str, Value]) -> Mapping[str, Value]:
        given = dict(embedding.body(ops, inputs))
        kept = {"num_logits_to_keep": ops.numbers([_LAST])}
        cached = {spec.name: inputs[spec.name] for spec in function.inputs if spec.name in inputs}
        return function.body(ops, {**cached, **given, **kept})

    own = ("inputs_embeds", "num_logits_to_keep")
    inputs = (*embedding.inputs, *(spec for spec in function.inputs if spec.name not in own))
    logits, *presents = function.outputs
    last = replace(logits, shape=(logits.shape[0], _LAST, logits.shape[2]))
    joined = Function("main", inputs, (last, *presents), body)
    return Graph("model", "decoder", (joined,), (), decoder.blocks)


def write_text_model(
    graphs: tuple[Graph, Graph], specs: Specs, folder: Path, profile: Profile
) -> None:
    """Write `model.onnx` into a folder that holds the two finished graphs."""
    text = text_graph(*graphs)
    builder = emit(text, specs, profile)
    finished = [onnx.load(folder / f"{g.name}.onnx", load_external_data=False) for g in graphs]
    stored = {tensor.name: tensor for model in finished for tensor in model.graph.initializer}
    for name, declared in builder.declared.items():
        if declared.inline:
            builder.inline(name, numpy_helper.to_array(stored[name]))
    external = [stored[name] for name, declared in builder.declared.items() if not declared.inline]
    assert all(tensor.data_location == TensorProto.EXTERNAL for tensor in external)
    model = model_proto(text, builder, external)
    (folder / TEXT_MODEL).write_bytes(model.SerializeToString(deterministic=True))


def text_config(manifest: Manifest, decoder: Graph, text_type: str) -> dict[str, Any]:
    """The content of config.json, by which optimum and transformers.js know the text model: the
    configuration of transformers' own model of that type."""
    sizes, stop = manifest.architecture, list(manifest.prompt.stop_token_ids)
    inner = next(p.shape[0] for p in decoder.parameters if p.name.endswith("mlp.gate_proj.weight"))
    return {
        "model_type": text_type,
        "vocab_size": sizes.vocab_size,
        "hidden_size": sizes.hidden_size,
        "intermediate_size": inner,
        "num_hidden_layers": sizes.num_layers,
        "num_attention_heads": sizes.num_attention_heads,
        "num_key_value_heads": sizes.num_key_value_heads,
        "head_dim": sizes.head_dim,
        "rope_theta": sizes.rope_theta,
        "max_position_embeddings": manifest.decoding.context_length,
        "bos_token_id": stop[0],
        "eos_token_id": stop,
        "pad_token_id": stop[0],
        "tie_word_embeddings": False,
        "use_cache": True,
    }


def genai_config(manifest: Manifest, text_type: str) -> dict[str, Any]:
    """The content of genai_config.json, which onnxruntime-genai reads beside the model."""
    sizes, decoding, answer = manifest.architecture, manifest.decoding, manifest.generation.answer
    stop = list(manifest.prompt.stop_token_ids)
    inputs = {
        "input_ids": "input_ids",
        "attention_mask": "attention_mask",
        "past_key_names": f"{PAST}.%d.key",
        "past_value_names": f"{PAST}.%d.value",
    }
    outputs = {
        "logits": "logits",
        "present_key_names": f"{PRESENT}.%d.key",
        "present_value_names": f"{PRESENT}.%d.value",
    }
    decoder = {
        "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
        "filename": TEXT_MODEL,
        "head_size": sizes.head_dim,
        "hidden_size": sizes.hidden_size,
        "num_attention_heads": sizes.num_attention_heads,
        "num_key_value_heads": sizes.num_key_value_heads,
        "num_hidden_layers": sizes.num_layers,
        "inputs": inputs,
        "outputs": outputs,
    }
    model = {
        "type": text_type,
        "context_length": decoding.context_length,
        "bos_token_id": stop[0],
        "eos_token_id": stop,
        "pad_token_id": stop[0],
        "vocab_size": sizes.vocab_size,
        "decoder": decoder,
    }
    search = {
        "do_sample": answer.temperature > 0,
        "max_length": decoding.context_length,
        "past_present_share_buffer": True,
        "repetition_penalty": answer.repetition_penalty,
        "temperature": answer.temperature or 1.0,
        "top_k": answer.top_k or 1,
        "top_p": answer.top_p,
    }
    return {"model": model, "search": search}
