"""The chat format of a release: special tokens by role, terminators, templates.

The rules are data; `export/host/tokenizer.py` applies them to the files of a checkpoint.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from mobile_runtime.bundle import TEXT_ROLE

# Role in the manifest -> how the published checkpoints of the family write the token.
IMAGE_TOKENS: Mapping[str, str] = {
    "image_start": "<image>",
    "image_end": "</image>",
    "slice_start": "<slice>",
    "slice_end": "</slice>",
    "image_id_start": "<image_id>",
    "image_id_end": "</image_id>",
    "image_placeholder": "<unk>",
}
MESSAGE_TOKENS: Mapping[str, str] = {
    "message_start": "<|im_start|>",
    "message_end": "<|im_end|>",
    "end_of_text": "<|endoftext|>",
}
THINK_TOKENS: Mapping[str, str] = {"think_start": "<think>", "think_end": "</think>"}
# What a user's words and an answer may spell: places in a picture, and what is there.
TEXT_TOKENS: Mapping[str, str] = {
    f"{TEXT_ROLE}{kind}_{end}": f"<{'/' if end == 'end' else ''}{kind}>"
    for kind in ("ref", "box", "quad", "point")
    for end in ("start", "end")
}
SPECIAL_TOKENS: Mapping[str, str] = {**MESSAGE_TOKENS, **THINK_TOKENS, **IMAGE_TOKENS}


@dataclass(frozen=True)
class ChatRules:
    """The chat format of a release.

    `special_tokens` maps roles to tokens, those of `stop_roles` end an answer; so does
    `text_tokens`, of which a tokenizer may lack some. A checkpoint without a template gets
    `default_template`; any other must have one of the digests `template_sha256`, because the
    runtime renders the format in code. `title` names the release in errors.
    """

    title: str
    special_tokens: Mapping[str, str]
    stop_roles: tuple[str, ...]
    default_template: str
    template_sha256: tuple[str, ...]
    text_tokens: Mapping[str, str] = field(default_factory=dict)

    def supports(self, template: str) -> bool:
        """Whether the runtime's own rendering agrees with `template`. Its lines may end as in
        another system, and the last one may have an end or not: both print the same."""
        text = template.replace("\r\n", "\n").removesuffix("\n")
        same = (text, f"{text}\n")
        digests = {hashlib.sha256(one.encode()).hexdigest() for one in same}
        return self.default_template in same or not digests.isdisjoint(self.template_sha256)
