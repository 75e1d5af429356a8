"""What transformers calls a processor, over a bundle: chats and pictures in, tensors out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature, PreTrainedTokenizerFast
from transformers.image_utils import load_image

from mobile_runtime.bundle import Manifest, read_manifest
from mobile_runtime.chat.conversation import ChatFormat, PreparedPrompt, prepare_prompt
from mobile_runtime.chat.prompt import PromptOptions, check_prompt
from mobile_runtime.chat.tokenizer import Tokenizer
from mobile_runtime.errors import InputError
from mobile_runtime.model.hub import bundle_folder
from mobile_runtime.pictures.preprocess import check_view

_Message = Mapping[str, Any]


class MiniCPMVProcessor:
    """Chats and pictures to the tensors that `MiniCPMVForMobile` takes.

    | name | what it is |
    |---|---|
    | `input_ids`, `attention_mask` | (1, T): token ids, and ones |
    | `pixel_values` | for the one prompt, a list of views (3, patch, patch · L), normalised |
    | `tgt_sizes` | for the one prompt, (views, 2): rows and columns of patches |
    | `image_bound` | for the one prompt, (groups, 2): where embeddings of a group stand |
    | `temporal_ids` | for the one prompt, a list of each group's frames' times; −1 for a picture |

    They are those of the published processor. One prompt is taken at a time.
    """

    def __init__(self, manifest: Manifest, tokenizer_file: Path) -> None:
        own = Tokenizer.load(tokenizer_file)
        check_prompt(manifest.prompt, own)
        self._format = ChatFormat(own, manifest.prompt, manifest.preprocessing)
        self.tokenizer = _tokenizer(manifest, tokenizer_file)
        self.chat_template = manifest.prompt.chat_template

    @classmethod
    def from_pretrained(cls, bundle: Path | str, **_: Any) -> MiniCPMVProcessor:
        """The processor of a bundle, or of one on the hub, `hf://OWNER/NAME@REVISION`. Raises
        `InputError` for what is no bundle."""
        folder = bundle_folder(bundle)
        return cls(read_manifest(folder), folder / "tokenizer" / "tokenizer.json")

    def apply_chat_template(
        self,
        conversation: Sequence[_Message],
        tokenize: bool = False,
        enable_thinking: bool | None = False,
        max_slice_nums: int | None = None,
        **options: Any,
    ) -> str | BatchFeature:
        """A conversation as text, or with `tokenize` as tensors. Pictures stand in its messages, as
        in transformers: {"type": "image", "image" | "url" | "path" | "base64": …}. Raises
        `InputError` for messages that are not valid, and for an answer to be continued."""
        if options.get("continue_final_message") or options.get("tools"):
            raise InputError(
                "a bundle answers a question and neither continues an answer nor calls tools; end "
                "the conversation with a message of the user, and leave out tools."
            )
        prepared = prepare_prompt(
            [_own_message(message) for message in conversation],
            self._format,
            PromptOptions(enable_thinking=enable_thinking),
            max_slice_nums,
        )
        for view in (view for group in prepared.groups for view in group):
            check_view(view, self._format.preprocessing)
        return _tensors(prepared) if tokenize else prepared.encoded.text

    def __call__(
        self, images: Any = None, text: str | Sequence[str] | None = None, **options: Any
    ) -> BatchFeature:
        """One question after its pictures. Raises `InputError` for several questions."""
        question = text if isinstance(text, str) or text is None else _only(text, "texts")
        given = images if isinstance(images, list | tuple) else [images]
        parts = [{"type": "image", "image": image} for image in given if image is not None]
        content = [*parts, {"type": "text", "text": question or ""}]
        message = {"role": "user", "content": content}
        kept = {k: options[k] for k in ("enable_thinking", "max_slice_nums") if k in options}
        found = self.apply_chat_template([message], tokenize=True, **kept)
        assert isinstance(found, BatchFeature)
        return found

    def decode(self, ids: Any, **options: Any) -> str:
        """The text of token ids (T,)."""
        return str(self.tokenizer.decode(ids, **options))

    def batch_decode(self, ids: Any, **options: Any) -> list[str]:
        """The texts of rows of token ids."""
        return [self.decode(row, **options) for row in ids]

    def post_process_image_text_to_text(self, generated: Any, **options: Any) -> list[str]:
        """As `batch_decode`; a pipeline calls it."""
        return self.batch_decode(generated, **options)


def _only(given: Sequence[Any], what: str) -> Any:
    if len(given) != 1:
        raise InputError(f"{len(given)} {what} are given; a bundle takes one prompt at a time.")
    return given[0]


def _tokenizer(manifest: Manifest, file: Path) -> PreTrainedTokenizerFast:
    special = manifest.prompt.special_tokens
    end = special["message_end"].content
    return PreTrainedTokenizerFast(tokenizer_file=str(file), eos_token=end, pad_token=end)


def _own_message(message: _Message) -> dict[str, Any]:
    """A message of transformers as one of ours."""
    content = message["content"]
    if not isinstance(content, str):
        content = [_own_part(part) for part in content]
    return {**message, "content": content}


def _own_part(part: Any) -> Any:
    if not isinstance(part, Mapping) or part.get("type") != "image":
        return part
    place = next((part[k] for k in ("image", "url", "path", "base64") if k in part), None)
    if place is None:
        raise InputError('a picture is given without "image", "url", "path" or "base64"; add one.')
    return {"type": "image", "image": load_image(place)}


def _tensors(prepared: PreparedPrompt) -> BatchFeature:
    encoded = prepared.encoded
    ids = torch.from_numpy(encoded.input_ids.astype(np.int64))[None]
    features: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if prepared.groups:
        views = [view for group in prepared.groups for view in group]
        sizes = np.array([view.tgt_size for view in views])
        features["pixel_values"] = [[torch.from_numpy(view.strip) for view in views]]
        features["tgt_sizes"] = [torch.from_numpy(sizes)]
        features["image_bound"] = [torch.from_numpy(encoded.image_bound.astype(np.int64))]
        features["temporal_ids"] = [[list(group.temporal_ids) for group in encoded.groups]]
    return BatchFeature(features)
