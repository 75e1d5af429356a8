"""Findings that are accepted, each with its reason: those of our own exports, and a reader's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mobile_runtime.errors import InputError
from mobile_runtime.files import load_json
from mobile_runtime.strict_json import decode

_REMEDY = 'write a list such as [{"rule": "S05", "where": "*: decode: *", "reason": "…"}]'


@dataclass(frozen=True)
class Waiver:
    """Accepts what a rule finds at places that match `where`, a pattern with `*` and `?`."""

    rule: str
    where: str
    reason: str


# What the exporter does on purpose in Core ML bundles.
OWN = (
    Waiver(
        "S05",
        "decoder*: decode: *",
        "a step of decoding has one token; prefill takes 64 at once",
    ),
    Waiver(
        "S05",
        "lm_head*",
        "the head is asked for the last position only",
    ),
    Waiver(
        "N10",
        "*",
        "it is the epsilon of the checkpoint; parity in fp16 computes with the stored one",
    ),
    *(
        Waiver("N09", where, "--fit-half puts constant channels in place of so small an epsilon")
        for where in ("decoder*", "lm_head*")
    ),
    Waiver(
        "A05",
        "decoder*: decode: *",
        "--context-length says how much is allocated",
    ),
    Waiver("K11", "decoder*", "--kv-cache io exports the variant with the cache as an input"),
    Waiver(
        "W04",
        "*",
        "groups of 8 to 16 rows keep more of the model; an iPhone 15 Pro lost 5 % by them (Apple)",
    ),
    Waiver("W05", "*", "6 bits are chosen for their size"),
)


def read_waivers(path: Path) -> tuple[Waiver, ...]:
    """The waivers of a JSON file. Raises `InputError` for anything else, or without a reason."""
    items = load_json(path, _REMEDY)
    if not isinstance(items, list):
        raise InputError(f"{path} holds no list; {_REMEDY}.")
    waivers = tuple(decode(Waiver, item, "a waiver", path.name, _REMEDY) for item in items)
    for waiver in waivers:
        if not waiver.reason.strip():
            raise InputError(f"{path} waives {waiver.rule} without a reason; write one.")
    return waivers
