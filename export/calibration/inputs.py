"""Examples -> inputs of the decoder: embeddings of tokens, and of pictures by the vision tower."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from export.calibration.examples import Examples, cut_texts, prepare_chats
from export.calibration.torch_ops import Compute, TorchOps, as_tensor
from export.checkpoint.source import TensorReader
from export.graphs.parameters import key_query
from export.models.tensors import EMBED_TOKENS, POSITION_EMBEDDING
from export.releases.release import ModelDescription
from mobile_runtime.chat.conversation import ChatFormat, PreparedPrompt
from mobile_runtime.model.positions import position_ids, sincos_2d, sincos_time
from mobile_runtime.pictures.preprocess import View, patches

LONGEST = 2048  # tokens of a chat; what follows is cut off


class Embedder:
    """Embeds prompts with the weights of `source`."""

    def __init__(self, source: TensorReader, described: ModelDescription, compute: Compute) -> None:
        self._source, self._described = source, described
        self._ops, self._device = TorchOps(source, compute), compute.device

    def tokens(self, ids: Sequence[int]) -> np.ndarray:
        """Embeddings of token ids, (T, D) float32."""
        distinct, places = np.unique(np.asarray(ids), return_inverse=True)
        rows = [self._source.read_rows(EMBED_TOKENS, n, n + 1) for n in distinct.tolist()]
        return np.concatenate(rows).astype(np.float32)[places]

    def prompt(self, prompt: PreparedPrompt) -> np.ndarray:
        """Embeddings of a prompt and its pictures, (T, D) float32."""
        embeddings = self.tokens(prompt.encoded.input_ids.tolist())
        groups = zip(prompt.groups, prompt.encoded.groups, strict=True)
        found = [self._resample(views, group.temporal_ids) for views, group in groups]
        for (begin, end), embeds in zip(prompt.encoded.image_bound, found, strict=True):
            embeddings[begin:end] = embeds
        return embeddings[:LONGEST]

    def _resample(self, views: Sequence[View], times: Sequence[int]) -> np.ndarray:
        model, ops = self._described.config, self._ops
        size = model.decoder.hidden_size
        features = torch.cat([self._encode(view) for view in views])
        steps = sincos_time(times, size)
        places = [sincos_2d(*view.tgt_size, size) + steps[n] for n, view in enumerate(views)]
        positions = self._tensor(np.concatenate(places))

        def scores(x: Tensor) -> Tensor:
            return ops.linear(x + positions, key_query(model))

        bodies = self._described.release.bodies
        return np.asarray(bodies.resample(ops, features, scores, model).float().cpu().numpy())

    def _encode(self, view: View) -> Tensor:
        vision, bodies = self._described.config.vision, self._described.release.bodies
        table = self._source.read(POSITION_EMBEDDING)
        ids = position_ids(*view.tgt_size, vision.position_buckets)
        inputs = {
            "patches": self._tensor(np.ascontiguousarray(patches(view).T)),
            "position_embeddings": self._tensor(table[ids]),
            "attention_mask": None,
        }
        outputs = bodies.encode_patches(self._ops, inputs, vision, range(vision.num_layers))
        features: Tensor = outputs["image_features"]
        return features

    def _tensor(self, values: np.ndarray) -> Tensor:
        return as_tensor(values).to(self._device, torch.float32)


@torch.inference_mode()
def embed_examples(
    examples: Examples, chat_format: ChatFormat, embedder: Embedder, text_tokens: int
) -> list[np.ndarray]:
    """The examples as decoder inputs, (T, D) float32 each; of their texts at most so many
    tokens."""
    chats = [embedder.prompt(prompt) for prompt in prepare_chats(examples, chat_format)]
    pieces = cut_texts(examples, chat_format, text_tokens)
    return [*chats, *map(embedder.tokens, pieces)]
