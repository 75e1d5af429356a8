"""Chat messages to token ids: Qwen3's chat template, image placeholders and video groups.

Messages and the slice grids of their pictures go in; ids, the places of the vision embeddings and
the views that belong there come out. It decodes no picture and holds no token id of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobile_runtime.bundle import TEXT_ROLE, Preprocessing, Prompt
from mobile_runtime.chat.messages import Turn, collect_media
from mobile_runtime.chat.tokenizer import Tokenizer
from mobile_runtime.errors import InputError
from mobile_runtime.pictures.video import MAX_FRAMES_PER_GROUP

Grid = tuple[int, int]  # (columns, rows)


@dataclass(frozen=True)
class MediaLayout:
    """How one picture or video was cut: one slice grid (or None) per frame; a picture is one frame.

    `temporal_ids` packs a video's frames into groups; None makes every frame a group of its own.
    """

    grids: tuple[Grid | None, ...]
    temporal_ids: Sequence[Sequence[int]] | None = None


@dataclass(frozen=True)
class PromptOptions:
    """`enable_thinking` None lets the model choose. `use_image_id` None means the bundle's value,
    or False if the conversation has a video. `temporal_ids` groups all frames of the conversation,
    in order, in place of the layouts' own groups."""

    enable_thinking: bool | None = False
    use_image_id: bool | None = None
    temporal_ids: Sequence[Sequence[int]] | None = None


@dataclass(frozen=True)
class ViewGroup:
    """The views that fill one row of `image_bound`: view number `view` of each of `frames`, which
    are counted over the conversation. The resampler packs them with these temporal ids."""

    frames: tuple[int, ...]
    view: int
    temporal_ids: tuple[int, ...]


@dataclass(frozen=True)
class EncodedPrompt:
    """Token ids (T,), half-open placeholder ranges (n, 2), the n groups that fill them, and the
    prompt as text, for display only."""

    input_ids: NDArray[np.int32]
    image_bound: NDArray[np.int32]
    groups: tuple[ViewGroup, ...]
    text: str

    @property
    def video_frames(self) -> int:
        """Number of frames that have times."""
        return len({frame for g in self.groups if max(g.temporal_ids) >= 0 for frame in g.frames})


@dataclass(frozen=True)
class _Control:
    """A special token, by its role in the manifest."""

    role: str


@dataclass(frozen=True)
class _Slot:
    """The place of a picture or video in the conversation, then of a frame."""

    index: int


_Item = str | _Control | _Slot

_MESSAGE_START, _MESSAGE_END = _Control("message_start"), _Control("message_end")
_THINK_START, _THINK_END = _Control("think_start"), _Control("think_end")
_IMAGE_START, _IMAGE_END = _Control("image_start"), _Control("image_end")
_SLICE_START, _SLICE_END = _Control("slice_start"), _Control("slice_end")
_ID_START, _ID_END = _Control("image_id_start"), _Control("image_id_end")
_PLACEHOLDER = _Control("image_placeholder")
_THINK_CONTROLS = (_THINK_START, _THINK_END)  # of models that think
_LAST_TIME = 1 << 24  # float32, in which positions in time are computed, counts no further
_CONTROLS = (
    *(_MESSAGE_START, _MESSAGE_END, _IMAGE_START, _IMAGE_END),
    *(_SLICE_START, _SLICE_END, _ID_START, _ID_END, _PLACEHOLDER),
)


def check_prompt(prompt: Prompt, tokenizer: Tokenizer) -> None:
    """Check that the manifest names every special token and that the tokenizer agrees."""
    for role in (control.role for control in _CONTROLS):
        if role not in prompt.special_tokens:
            raise InputError(f"The manifest has no special token {role!r}; export again.")
    for token in prompt.special_tokens.values():
        if (found := tokenizer.token_id(token.content)) != token.id:
            raise InputError(
                f"The manifest says that {token.content} is {token.id}, the tokenizer {found}; "
                "export the bundle again."
            )


def can_think(prompt: Prompt) -> bool:
    """Whether the model has tokens that begin and end a thought."""
    return all(control.role in prompt.special_tokens for control in _THINK_CONTROLS)


def encode_prompt(
    turns: Sequence[Turn],
    media: Sequence[MediaLayout],
    tokenizer: Tokenizer,
    prompt: Prompt,
    preprocessing: Preprocessing,
    options: PromptOptions = PromptOptions(),
) -> EncodedPrompt:
    """Encode a conversation and the opening of the answer.

    `media` holds one layout for each picture and video, in the order of `collect_media`. Text never
    becomes a special token, whatever it spells, but those whose roles begin with `TEXT_ROLE`.
    Raises `InputError` for options that the model or the layouts do not allow.
    """
    if (wanted := len(collect_media(turns))) != len(media):
        raise InputError(
            f"The messages hold {wanted} pictures and videos, {len(media)} layouts were given."
        )
    if options.enable_thinking and not can_think(prompt):
        raise InputError("the model of this bundle does not think; leave the thinking switch out.")
    grids = list(chain.from_iterable(layout.grids for layout in media))
    groups = _frame_groups(media, options.temporal_ids)
    numbered = _use_image_id(media, preprocessing, options)
    firsts = list(accumulate(map(len, groups), initial=0))[:-1]
    placeholders = {
        first: _placeholder(first if numbered else None, grids[first], preprocessing)
        for first in firsts
    }
    frame_counts = [len(layout.grids) for layout in media]
    items = _render(turns, frame_counts, options.enable_thinking, can_think(prompt))
    view_groups = _view_groups(groups, grids)
    return _encode(_place(items, placeholders), view_groups, tokenizer, prompt)


def _use_image_id(
    media: Sequence[MediaLayout], preprocessing: Preprocessing, options: PromptOptions
) -> bool:
    if options.use_image_id is not None:
        return options.use_image_id
    return preprocessing.use_image_id and all(layout.temporal_ids is None for layout in media)


def _frame_groups(
    media: Sequence[MediaLayout], temporal_ids: Sequence[Sequence[int]] | None
) -> list[tuple[int, ...]]:
    """Temporal ids of each group of frames; a single frame has the id −1, which means no time."""
    if temporal_ids is not None:
        return check_temporal_ids(temporal_ids, sum(len(layout.grids) for layout in media))
    groups: list[tuple[int, ...]] = []
    for layout in media:
        alone = [(-1,)] * len(layout.grids)
        own = layout.temporal_ids
        groups += alone if own is None else check_temporal_ids(own, len(layout.grids))
    return groups


def check_temporal_ids(
    temporal_ids: Sequence[Sequence[int]], frame_count: int
) -> list[tuple[int, ...]]:
    """Return the groups as tuples. Raises `InputError` if they are no lists of integers, a group
    does not have 1 to 6 ids, or all groups together not `frame_count`."""
    groups = [_group(group) for group in temporal_ids]
    if any(time > _LAST_TIME for group in groups for time in group):
        raise InputError(f"temporal_ids has an id above {_LAST_TIME:,}; count from 0, one by one.")
    for group in groups:
        if not 1 <= len(group) <= MAX_FRAMES_PER_GROUP or min(group) < -1:
            raise InputError(
                f"temporal_ids has the group {list(group)[:8]}; a group has 1 to "
                f"{MAX_FRAMES_PER_GROUP} ids, each −1 or more."
            )
    if (total := sum(map(len, groups))) != frame_count:
        raise InputError(
            f"temporal_ids describes {total} pictures and the messages hold {frame_count}; "
            "give one id for each picture."
        )
    return groups


def _group(given: Any) -> tuple[int, ...]:
    if isinstance(given, Iterable) and not isinstance(given, str):
        ids = [time.item() if isinstance(time, np.integer) else time for time in given]
        if all(type(time) is int for time in ids):
            return tuple(ids)
    raise InputError(
        f"temporal_ids has the group {str(given)[:40]}; a group is a list of integers, as in "
        "[[0, 1, 2], [3, 4]]."
    )


def _view_groups(
    frame_groups: Sequence[tuple[int, ...]], grids: Sequence[Grid | None]
) -> tuple[ViewGroup, ...]:
    """One group for each view of a group's first frame; all its frames must be cut alike."""
    groups: list[ViewGroup] = []
    first = 0
    for times in frame_groups:
        frames = tuple(range(first, first + len(times)))
        if len({grids[frame] for frame in frames}) > 1:
            raise InputError(
                f"The pictures {frames[0]} to {frames[-1]} form one group but are sliced "
                "differently; use max_slice_nums 1 for video frames."
            )
        grid = grids[first]
        count = 1 if grid is None else 1 + grid[0] * grid[1]
        groups += [ViewGroup(frames, view, times) for view in range(count)]
        first += len(times)
    return tuple(groups)


def _placeholder(image_id: int | None, grid: Grid | None, config: Preprocessing) -> list[_Item]:
    run: list[_Item] = [_PLACEHOLDER] * config.num_queries
    items: list[_Item] = [] if image_id is None else [_ID_START, str(image_id), _ID_END]
    items += [_IMAGE_START, *run, _IMAGE_END]
    columns, rows = grid or (0, 0)
    for row in range(rows):
        items += [] if row == 0 else ["\n"]
        items += [_SLICE_START, *run, _SLICE_END] * columns
    return items


def _render(
    turns: Sequence[Turn],
    frame_counts: Sequence[int],
    enable_thinking: bool | None,
    thinks: bool,
) -> list[_Item]:
    """Apply the published chat template, with the frames of all pictures numbered as slots. The
    template of a model that does not think has no thoughts."""
    firsts = accumulate(frame_counts, initial=0)
    slots = iter(
        [_Slot(first + n) for n in range(count)]
        for first, count in zip(firsts, frame_counts, strict=False)
    )
    last_query = _last_query(turns)
    items: list[_Item] = []
    for index, turn in enumerate(turns):
        body: list[_Item] = []
        if turn.role == "assistant" and not thinks:
            body.append(turn.text())
        elif turn.role == "assistant":
            body += _render_answer(turn, index > last_query, index == len(turns) - 1)
        else:
            for part in turn.parts:
                body += [part] if isinstance(part, str) else next(slots)
            body = _join(body)
        items += [_MESSAGE_START, turn.role + "\n", *body, _MESSAGE_END, "\n"]
    items += [_MESSAGE_START, "assistant\n"]
    if not thinks or enable_thinking is None:
        return items
    if not enable_thinking:
        items += [_THINK_START, "\n\n", _THINK_END, "\n\n"]
    else:
        items += [_THINK_START, "\n"]
    return items


def _join(parts: Sequence[_Item]) -> list[_Item]:
    return list(chain.from_iterable([part, "\n"] for part in parts))[:-1]


def _last_query(turns: Sequence[Turn]) -> int:
    """Index of the last question; as in the template, a tool response does not count as one."""
    for index in range(len(turns) - 1, -1, -1):
        turn = turns[index]
        first, last = turn.parts[:1], turn.parts[-1:]
        is_response = all(isinstance(part, str) for part in first + last) and (
            turn.text().startswith("<tool_response>") and turn.text().endswith("</tool_response>")
        )
        if turn.role == "user" and not is_response:
            return index
    return len(turns) - 1


def _render_answer(turn: Turn, after_query: bool, is_last: bool) -> list[_Item]:
    """Render an earlier answer, without its thoughts unless it comes after the last question."""
    text, reasoning = turn.text(), turn.reasoning
    content = text
    if reasoning is None and "</think>" in text:
        content = text.split("</think>")[-1].lstrip("\n")
        reasoning = text.split("</think>")[0].rstrip("\n").split("<think>")[-1].lstrip("\n")
    if not (after_query and (is_last or reasoning)):
        return _cut_answer(content)
    thoughts = (reasoning or "").strip("\n")
    said = _cut_answer(content.lstrip("\n"))
    return [_THINK_START, f"\n{thoughts}\n", _THINK_END, "\n\n", *said]


def _cut_answer(text: str) -> list[_Item]:
    """Thoughts that a limit cut begin with the token that the model began them with."""
    cut = text.removeprefix("<think>")
    return [text] if cut == text else [_THINK_START, cut]


def _place(items: Iterable[_Item], placeholders: Mapping[int, list[_Item]]) -> list[_Item]:
    """Put placeholders into slots. A slot without one is a later frame of its group: the chunk
    since the previous slot is stripped, which removes the newline that joined the frames."""
    placed: list[_Item] = []
    chunk: list[_Item] = []
    for item in items:
        if not isinstance(item, _Slot):
            chunk.append(item)
        elif item.index in placeholders:
            placed += chunk + placeholders[item.index]
            chunk = []
        else:
            placed += _strip(chunk)
            chunk = []
    return placed + chunk


def _strip(chunk: list[_Item]) -> list[_Item]:
    """`str.strip` on a chunk; special tokens are not white space."""
    chunk = list(chunk)
    while chunk and isinstance(chunk[0], str):
        chunk[0] = chunk[0].lstrip()
        if chunk[0]:
            break
        del chunk[0]
    while chunk and isinstance(last := chunk[-1], str):
        chunk[-1] = last.rstrip()
        if chunk[-1]:
            break
        del chunk[-1]
    return chunk


def encode_text(text: str, tokenizer: Tokenizer, prompt: Prompt) -> list[int]:
    """The ids of a text, with those of the tokens that texts may spell."""
    spoken = {
        token.content: token.id
        for role, token in prompt.special_tokens.items()
        if role.startswith(TEXT_ROLE)
    }
    if not spoken:
        return tokenizer.encode_text(text)
    ids: list[int] = []
    for piece in re.split(f"({'|'.join(map(re.escape, spoken))})", text):
        if piece in spoken:
            ids.append(spoken[piece])
        elif piece:
            ids += tokenizer.encode_text(piece)
    return ids


def _encode(
    items: Iterable[_Item], groups: tuple[ViewGroup, ...], tokenizer: Tokenizer, prompt: Prompt
) -> EncodedPrompt:
    ids: list[int] = []
    bounds: list[int] = []
    shown: list[str] = []
    for item in _merge_texts(items):
        if isinstance(item, str):
            ids += encode_text(item, tokenizer, prompt)
            shown.append(item)
        elif isinstance(item, _Control):
            token = prompt.special_tokens[item.role]
            bounds += [len(ids)] if item in (_IMAGE_END, _SLICE_END) else []
            ids.append(token.id)
            bounds += [len(ids)] if item in (_IMAGE_START, _SLICE_START) else []
            shown.append(token.content)
    image_bound = np.array(bounds, dtype=np.int32).reshape(-1, 2)
    assert len(image_bound) == len(groups)
    return EncodedPrompt(np.array(ids, dtype=np.int32), image_bound, groups, "".join(shown))


def _merge_texts(items: Iterable[_Item]) -> Iterator[_Item]:
    """Join neighbouring texts: the published tokenizer sees them as one."""
    for is_text, run in groupby(items, lambda item: isinstance(item, str)):
        if is_text:
            yield "".join(item for item in run if isinstance(item, str))
        else:
            yield from run
