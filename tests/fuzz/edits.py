"""Damage to files as data: a list of edits that can be drawn, printed, kept and done again.

An edit is a list whose first item names it. Places in bytes are fractions, so that an edit still
means something when the file it was drawn for has grown.
"""

import json
import math
from copy import deepcopy

from google.protobuf.message import Message

HOSTILE = (
    *(0, -1, 1, 2, 7, 255, 65536, 10**6, 10**9, 2**31 - 1, 2**31, 2**63 - 1, 2**63, -(2**63)),
    *(10**400, 0.5, -0.0, 1e-300, 1e308, math.nan, math.inf, True, False, None),
    *("", "x", "\0", "\ud800", "../x", "/etc/passwd", "a" * 5000, "NaN", "[/red]", "\x1b[2J"),
    *([], {}, [[]], [1], {"a": 1}, [None] * 300),
)
_NESTED = 100_000  # brackets


def draw_bytes(rng):
    """One edit of a file's bytes."""
    where = rng.random()
    return rng.choice(
        (
            ["flip", where, rng.randrange(8)],
            ["flip", where, rng.randrange(8)],
            ["fill", where, rng.choice((1, 4, 16, 400)), rng.choice((0, 255, rng.randrange(256)))],
            ["swap", where, rng.random(), rng.choice((4, 64))],
            ["cut", where],
            ["remove", where, rng.choice((1, 8, 1000))],
            ["extend", rng.choice((1, 100, 4096))],
            ["empty"],
        )
    )


def edit_bytes(data, edit):
    """The bytes after an edit of `draw_bytes`."""
    kind, *rest = edit
    at = min(int(rest[0] * len(data)), max(0, len(data) - 1)) if rest else 0
    match kind:
        case "empty":
            return b""
        case "extend":
            return data + bytes(n % 251 for n in range(rest[0]))
        case "cut":
            return data[:at]
        case "remove":
            return data[:at] + data[at + rest[1] :]
        case "fill":
            return data[:at] + bytes([rest[2]]) * rest[1] + data[at + rest[1] :]
        case "swap":
            other = int(rest[1] * len(data))
            return data[:at] + data[other : other + rest[2]] + data[at + rest[2] :]
        case "flip":
            changed = bytearray(data or b"\0")
            changed[at] ^= 1 << rest[1]
            return bytes(changed)
    raise ValueError(f"unknown edit {kind}")


def draw_json(rng, value):
    """One edit of a JSON value: a place that it has, and what happens there."""
    if rng.random() < 0.03:
        return rng.choice((["nest", "["], ["nest", '{"a":'], ["digits", 5000], draw_bytes(rng)))
    place = _draw_place(rng, value)
    number = _at(value, place)
    if isinstance(number, int | float) and not isinstance(number, bool) and rng.random() < 0.4:
        choices = (0, -number, number + 1, number - 1, 2 * number, 1000 * number, number / 3)
        return ["set", place, rng.choice(choices)]
    if place and rng.random() < 0.25:
        return ["delete", place]
    if rng.random() < 0.15:
        return ["copy", place, _draw_place(rng, value)]
    return ["set", place, rng.choice(HOSTILE)]


def _draw_place(rng, value):
    place = []
    while isinstance(value, dict | list) and value and (not place or rng.random() < 0.85):
        key = rng.choice(sorted(value)) if isinstance(value, dict) else rng.randrange(len(value))
        place.append(key)
        value = value[key]
    return place


def _at(value, place):
    for key in place:
        value = value[key]
    return value


def edit_json(data, edit):
    """The bytes of a JSON file after an edit of `draw_json`; of bytes after one of theirs."""
    kind, *rest = edit
    if kind == "nest":
        return (rest[0] * _NESTED).encode()
    if kind == "digits":
        return b'{"a": ' + b"9" * rest[0] + b"}"
    if kind not in ("set", "delete", "copy"):
        return edit_bytes(data, edit)
    document = {"root": json.loads(data)}
    *above, last = ["root", *rest[0]]
    try:
        target = _at(document, above)
        if kind == "delete":
            del target[last]
        else:
            target[last] = deepcopy(_at(document["root"], rest[1])) if kind == "copy" else rest[1]
    except (KeyError, IndexError, TypeError):  # the file is another than that of the draw
        pass
    return json.dumps(document["root"], indent=1).encode("ascii")


def draw_message(rng, message):
    """One edit of a protobuf message: field by field down to a place."""
    place = []
    while True:
        fields = [(field, value) for field, value in message.ListFields()]
        if not fields:
            return ["clear", place]
        field, value = rng.choice(fields)
        place.append(field.name)
        keys = _keys(value)
        if keys is not None:
            place.append(rng.choice(keys))
            value = value[place[-1]]
        if not isinstance(value, Message):
            return ["set", place, rng.choice(_SCALARS)]
        if rng.random() < 0.2:
            return [rng.choice(("clear", "double", "clear")), place]
        message = value


_SCALARS = (0, 1, -1, 3, 17, 64, 4096, 2**31 - 1, 2**62, 0.5, 1e30, "", "x", "val", "main")


def _keys(value):
    """Indices or keys of a repeated field or a map, None of any other."""
    if isinstance(value, Message | str | bytes | int | float):
        return None
    return sorted(value) if hasattr(value, "keys") else range(len(value))


def edit_message(message, edit):
    """Do an edit of `draw_message` on the message."""
    kind, place, *value = edit
    target, last = message, None
    steps = list(place)
    holder = None
    while steps:
        name = steps.pop(0)
        holder, last = target, name
        target = getattr(target, name)
        if _keys(target) is not None and steps:
            holder, last = target, steps.pop(0)
            target = target[last]
    if kind == "clear":
        _clear(holder, last)
    elif kind == "double":
        _double(holder, last, target)
    else:
        _set(holder, last, target, value[0])


def _clear(holder, last):
    if isinstance(last, str) and isinstance(holder, Message):
        holder.ClearField(last)
    else:
        del holder[last]


def _double(holder, last, target):
    if isinstance(last, int):
        holder.insert(last, target)
    elif not isinstance(holder, Message):
        holder[f"{last}_again"].CopyFrom(target)


def _set(holder, last, target, value):
    kind = type(target)
    if kind is bytes:
        value = str(value).encode()
    elif kind is str:
        value = str(value)
    elif isinstance(value, str):
        value = len(value)
    else:
        value = kind(value)
    try:
        if isinstance(holder, Message):
            setattr(holder, last, value)
        else:
            holder[last] = value
    except ValueError:  # out of the field's range
        setattr(holder, last, kind(1)) if isinstance(holder, Message) else None
