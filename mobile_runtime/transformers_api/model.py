"""What transformers calls a model, over a bundle: tensors of a prompt in, logits out."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    GenerationConfig,
    GenerationMixin,
    PreTrainedConfig,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from mobile_runtime.bundle import Manifest, Preprocessing
from mobile_runtime.chat.conversation import PreparedPrompt, reuse_keys
from mobile_runtime.chat.prompt import EncodedPrompt, ViewGroup
from mobile_runtime.engines import EngineOptions
from mobile_runtime.errors import InputError
from mobile_runtime.pictures.preprocess import View, check_view, view_of_strip
from mobile_runtime.session import Session

_PICTURES = ("pixel_values", "tgt_sizes", "image_bound", "temporal_ids")


class BundleConfig(PreTrainedConfig):  # type: ignore[misc]
    """Sizes of a bundle's text model, as transformers asks for them."""

    model_type = "minicpmv_mobile"
    vocab_size: int | None = None
    hidden_size: int | None = None
    num_hidden_layers: int | None = None
    num_attention_heads: int | None = None
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    max_position_embeddings: int | None = None

    @classmethod
    def of(cls, manifest: Manifest) -> BundleConfig:
        """What a manifest says."""
        sizes = manifest.architecture
        return cls(
            vocab_size=sizes.vocab_size,
            hidden_size=sizes.hidden_size,
            num_hidden_layers=sizes.num_layers,
            num_attention_heads=sizes.num_attention_heads,
            num_key_value_heads=sizes.num_key_value_heads,
            head_dim=sizes.head_dim,
            max_position_embeddings=manifest.decoding.context_length,
        )


class _ContextFull(StoppingCriteria):  # type: ignore[misc]
    def __init__(self, room: int) -> None:
        self._room = room

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        return torch.full((len(input_ids),), input_ids.shape[1] >= self._room)


class MiniCPMVForMobile(PreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """A bundle, run by any engine, with transformers' `generate`: greedy or sampled, with its
    logits processors, stopping criteria and streamers.

    The key/value cache is the session's and belongs to the bundle's engine: it is no `Cache` of
    transformers, and what a prompt shares with the one before is not computed again. One prompt is
    run at a time, so there are no beams and no batches.
    """

    config_class = BundleConfig
    main_input_name = "input_ids"
    _is_stateful = True  # which makes transformers refuse what copies or rewinds a cache

    def __init__(self, session: Session) -> None:
        super().__init__(BundleConfig.of(session.manifest))
        self.session = session
        self.generation_config = _generation(session.manifest)
        self._views: tuple[Any, tuple[View, ...]] = (None, ())

    @classmethod
    def from_pretrained(
        cls, bundle: Path | str, options: EngineOptions = EngineOptions(), **_: Any
    ) -> MiniCPMVForMobile:
        """Open a bundle, or one on the hub, `hf://OWNER/NAME@REVISION`, verifying its checksums.
        Raises `InputError` for what is no bundle, and options that it does not take."""
        model = cls(Session.load(bundle, options))
        model.eval()
        return model

    @property
    def device(self) -> torch.device:
        """Where prompts have to lie: in the memory of the host, wherever the engine computes."""
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        """Of pictures and logits."""
        return torch.float32

    def to(self, *_: Any, **__: Any) -> MiniCPMVForMobile:
        """Nothing moves: the engine's options say where it computes."""
        return self

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False

    def generate(
        self,
        inputs: torch.Tensor | None = None,
        *,
        stopping_criteria: Sequence[StoppingCriteria] | None = None,
        **kwargs: Any,
    ) -> Any:
        """As transformers' own; an answer ends also where the context is full."""
        full = _ContextFull(self.session.manifest.decoding.context_length)
        criteria = StoppingCriteriaList([*(stopping_criteria or ()), full])
        return super().generate(inputs, stopping_criteria=criteria, **kwargs)

    def prepare_inputs_for_generation(self, input_ids: torch.Tensor, **kwargs: Any) -> Any:
        """All ids each time: the session knows which of them it has."""
        kept = {name: kwargs[name] for name in _PICTURES if name in kwargs}
        return {"input_ids": input_ids, "logits_to_keep": 1, **kept}

    def forward(  # noqa: PLR0913  # transformers gives them by name
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        pixel_values: Any = None,
        tgt_sizes: Any = None,
        image_bound: Any = None,
        temporal_ids: Any = None,
        logits_to_keep: int = 0,
        **_: Any,
    ) -> CausalLMOutputWithPast:
        """Logits (1, T, vocab_size) for a prompt (1, T) with the processor's pictures; with
        `logits_to_keep` 1, only those of its last position, (1, 1, vocab_size), from the cache as
        far as it goes. Raises `InputError` for several prompts, padding, or a prompt that does not
        fit."""
        if len(input_ids) != 1 or (attention_mask is not None and not bool(attention_mask.all())):
            raise InputError(
                f"{len(input_ids)} prompts or beams are given, or one with padding; a bundle takes "
                "one prompt at a time, without padding."
            )
        ids = input_ids[0].numpy().astype(np.int32)
        room = self.session.manifest.decoding.context_length
        if not 0 < len(ids) <= room:
            raise InputError(f"a prompt of {len(ids)} tokens is given; give 1 to {room}.")
        pictures = [_first(x) for x in (pixel_values, tgt_sizes, image_bound, temporal_ids)]
        prompt = self._prompt(ids, *pictures)
        if logits_to_keep == 1:
            logits = self.session.prefill(prompt)[None]
        else:
            self.session.reset()
            rows = self.session.prompt_embeddings(prompt)
            logits = self.session.model.decoder.logits_of(rows)[-logits_to_keep:]
        return CausalLMOutputWithPast(logits=torch.from_numpy(np.array(logits, np.float32))[None])

    def _prompt(
        self, ids: np.ndarray, pixels: Any, sizes: Any, bounds: Any, times: Any
    ) -> PreparedPrompt:
        if pixels is None:
            encoded = EncodedPrompt(ids, np.zeros((0, 2), np.int32), (), "")
            return PreparedPrompt(encoded, (), np.zeros((0, 2), np.int32), tuple(ids.tolist()))
        if self._views[0] is not pixels:
            config = self.session.manifest.preprocessing
            self._views = (pixels, _read_views(pixels, np.asarray(sizes).tolist(), config))
        ends = list(accumulate((len(group) for group in times), initial=0))
        frames = [range(begin, end) for begin, end in pairwise(ends)]
        groups = tuple(tuple(self._views[1][n] for n in frame) for frame in frames)
        described = tuple(
            ViewGroup(tuple(frame), 0, tuple(group))
            for frame, group in zip(frames, times, strict=True)
        )
        bound = np.asarray(bounds).astype(np.int32)
        encoded = EncodedPrompt(ids, bound, described, "")
        return PreparedPrompt(
            encoded, groups, np.asarray(sizes).astype(np.int32), reuse_keys(encoded, groups)
        )


def _first(batch: Any) -> Any:
    return None if batch is None else batch[0]


def _read_views(
    pixels: Sequence[torch.Tensor], sizes: Sequence[Sequence[int]], config: Preprocessing
) -> tuple[View, ...]:
    views = tuple(
        view_of_strip(strip.float().numpy(), (rows, columns), config)
        for strip, (rows, columns) in zip(pixels, sizes, strict=True)
    )
    for view in views:
        check_view(view, config)
    return views


def _generation(manifest: Manifest) -> GenerationConfig:
    """The published defaults, but for the penalty, which transformers would put on the prompt."""
    answer, ends = manifest.generation.answer, list(manifest.prompt.stop_token_ids)
    chosen = {"temperature": answer.temperature, "top_k": answer.top_k, "top_p": answer.top_p}
    return GenerationConfig(
        do_sample=answer.temperature > 0,
        **(chosen if answer.temperature > 0 else {}),
        max_new_tokens=manifest.generation.max_new_tokens,
        eos_token_id=ends,
        pad_token_id=ends[0],
    )


# Whose classes a pipeline knows without a complaint.
MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.setdefault(
    BundleConfig.model_type, MiniCPMVForMobile.__name__
)
