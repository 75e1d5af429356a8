"""Which values may share memory, when each dies, and which writes may happen in place.

In: the steps of a function as `Draft`s, values as slot numbers. Out: a `MemoryPlan`. The caches of
a decoder are large, so a `slice_update` should write into the state itself instead of a copy; that
is right only if no value read later would change with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_AT_END = 1 << 62


@dataclass(frozen=True)
class Draft:
    """One step: slots it reads (nested blocks included), slots that its outputs may view."""

    type: str
    reads: frozenset[int]
    viewed: frozenset[int]
    outputs: tuple[int, ...]
    arguments: Mapping[str, int]


@dataclass(frozen=True)
class MemoryPlan:
    """`release[i]`: slots dead after step i. `detach[i]`: if step i writes in place, the live slots
    that may share its memory. `copied_outputs`: outputs that would change with a state or an
    input."""

    release: tuple[tuple[int, ...], ...]
    detach: Mapping[int, tuple[int, ...]]
    copied_outputs: frozenset[int]


class _Groups:
    """Disjoint sets of slots that may share memory, joined as the steps are walked."""

    def __init__(self) -> None:
        self._sets: dict[int, set[int]] = {}

    def of(self, slot: int) -> set[int]:
        return self._sets.setdefault(slot, {slot})

    def join(self, a: int, b: int) -> None:
        kept, merged = self.of(a), self.of(b)
        if kept is not merged:
            kept |= merged
            for slot in merged:
                self._sets[slot] = kept


def plan_memory(
    drafts: Sequence[Draft],
    states: set[int],
    owned_elsewhere: set[int],
    outputs: Sequence[int],
) -> MemoryPlan:
    """Analyse a function. `owned_elsewhere`: inputs and constants, which are never written."""
    last_use = _last_uses(drafts, outputs)
    groups = _Groups()
    detach: dict[int, tuple[int, ...]] = {}
    for index, draft in enumerate(drafts):
        in_place = False
        if draft.type == "slice_update":
            in_place = _may_write(index, drafts, groups, last_use, states, owned_elsewhere)
        if in_place or draft.type == "write_state":
            target = draft.arguments["x" if in_place else "input"]
            group = groups.of(target) - states - {target}
            detach[index] = tuple(sorted(s for s in group if last_use.get(s, -1) > index))
        if draft.type != "slice_update" or in_place:
            for output in draft.outputs:
                for slot in draft.viewed:
                    groups.join(slot, output)
    kept = states | owned_elsewhere | set(outputs)
    copied = {slot for slot in outputs if groups.of(slot) & (states | owned_elsewhere)}
    return MemoryPlan(_releases(drafts, last_use, kept), detach, frozenset(copied))


def _last_uses(drafts: Sequence[Draft], outputs: Sequence[int]) -> dict[int, int]:
    last_use = {slot: i for i, draft in enumerate(drafts) for slot in draft.reads}
    return last_use | dict.fromkeys(outputs, _AT_END)


def _releases(
    drafts: Sequence[Draft], last_use: Mapping[int, int], kept: set[int]
) -> tuple[tuple[int, ...], ...]:
    release: list[list[int]] = [[] for _ in drafts]
    for index, draft in enumerate(drafts):
        for slot in draft.outputs:
            if slot not in kept:
                release[last_use.get(slot, index)].append(slot)
    return tuple(tuple(slots) for slots in release)


def _may_write(
    index: int,
    drafts: Sequence[Draft],
    groups: _Groups,
    last_use: Mapping[int, int],
    states: set[int],
    owned_elsewhere: set[int],
) -> bool:
    """Whether a `slice_update` may overwrite its `x`.

    `x` must be dead afterwards and belong to the function; if it shares the memory of a state, the
    result must be written to that state before anything reads the state again.
    """
    target = drafts[index].arguments["x"]
    group = groups.of(target)
    if last_use[target] > index or group & owned_elsewhere:
        return False
    return all(_is_persisted(index, state, drafts) for state in group & states)


def _is_persisted(index: int, state: int, drafts: Sequence[Draft]) -> bool:
    """Whether the result of step `index`, or of updates on top of it, is the state's next value."""
    result = drafts[index].outputs[0]
    for draft in drafts[index + 1 :]:
        if draft.type == "slice_update" and draft.arguments["x"] == result:
            result = draft.outputs[0]
        elif draft.type == "write_state" and draft.arguments["input"] == state:
            return draft.arguments["data"] == result
        elif state in draft.reads:
            return False
    return False
