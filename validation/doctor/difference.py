"""What differs between two packages, or two bundles, for the reviewer of a change.

Packages are read, never run. Weights are compared by their bytes first; those that differ are
expanded a few rows at a time, and compared in decibels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mobile_runtime.bundle import read_manifest
from mobile_runtime.errors import InputError
from mobile_runtime.mlprogram.description import Feature
from mobile_runtime.package.report import feature_in_words
from validation.doctor.examine import is_bundle, open_packages
from validation.doctor.operation_difference import Hunk, operation_hunks
from validation.doctor.view import FunctionView, PackageView
from validation.doctor.weight_difference import compare_weights

Kind = Literal["added", "removed", "changed"]
What = Literal["package", "file", "manifest", "metadata", "function", "interface", "weight"]


@dataclass(frozen=True)
class Change:
    """One difference: `name` says where; `before` is empty for what is added, `after` for what is
    removed."""

    kind: Kind
    what: What
    name: str
    before: str = ""
    after: str = ""


@dataclass(frozen=True)
class Difference:
    """All differences of `after` from `before`; `hunks` holds those of operations by function.
    `equal_weights` counts the weights that have the same bytes. `files_only`: graphs that are no
    Core ML packages were compared by their files."""

    before: str
    after: str
    changes: tuple[Change, ...]
    hunks: Mapping[str, tuple[Hunk, ...]]
    equal_weights: int
    files_only: bool = False

    @property
    def differs(self) -> bool:
        """Whether there is any difference."""
        return bool(self.changes or self.hunks)

    def as_json(self) -> dict[str, Any]:
        """Values of JSON."""
        return {**dataclasses.asdict(self), "differs": self.differs}


def compare(before: Path, after: Path) -> Difference:
    """Compare two packages, or two bundles. Bundles for another runtime than Core ML are compared
    by manifest and files. Raises `InputError` for anything else, and for one of each."""
    if is_bundle(before) != is_bundle(after):
        raise InputError(
            f"{before} and {after} are a package and a bundle; give two packages or two bundles."
        )
    changes: list[Change] = []
    if is_bundle(before):
        changes += _manifest_changes(before, after)
        if any(read_manifest(bundle).format != "coreml" for bundle in (before, after)):
            return Difference(str(before), str(after), tuple(changes), {}, 0, files_only=True)
    olds, news = _by_name(before), _by_name(after)
    if not is_bundle(before):  # the names of two files are no difference
        news = dict(zip(olds, news.values(), strict=True)) if len(olds) == len(news) == 1 else news
    hunks: dict[str, tuple[Hunk, ...]] = {}
    equal = 0
    changes += _set_changes("package", olds, news)
    for name in [name for name in olds if name in news]:
        found, package_hunks, same = _package_changes(name, olds[name], news[name])
        changes, equal = [*changes, *found], equal + same
        hunks |= package_hunks
    return Difference(str(before), str(after), tuple(changes), hunks, equal)


def _by_name(target: Path) -> dict[str, PackageView]:
    views = open_packages(target)
    return {": ".join(filter(None, (view.name, view.model))): view for view in views}


def _set_changes(what: What, old: Iterable[str], new: Iterable[str]) -> Iterator[Change]:
    olds, news = list(old), list(new)
    yield from (Change("removed", what, name) for name in olds if name not in news)
    yield from (Change("added", what, name) for name in news if name not in olds)


def _package_changes(
    name: str, old: PackageView, new: PackageView
) -> tuple[list[Change], dict[str, tuple[Hunk, ...]], int]:
    changes = list(_value_changes("metadata", name, _facts(old), _facts(new)))
    olds = {view.name: view for view in old.functions}
    news = {view.name: view for view in new.functions}
    functions = {key: f"{name}: {key}" for key in (*olds, *news)}
    changes += _set_changes(
        "function", [functions[key] for key in olds], [functions[key] for key in news]
    )
    hunks: dict[str, tuple[Hunk, ...]] = {}
    for key in [key for key in olds if key in news]:
        changes += _value_changes(
            "interface", functions[key], _features(olds[key]), _features(news[key])
        )
        found = operation_hunks(olds[key], news[key])
        if found:
            hunks[functions[key]] = found
    weights, equal = compare_weights(old, new)
    changes += (Change(w.kind, "weight", f"{name}: {w.name}", w.before, w.after) for w in weights)
    return changes, hunks, equal


def _facts(view: PackageView) -> dict[str, str]:
    described = view.description
    return {
        "specification version": str(described.specification_version),
        "default function": described.default_function,
        **described.metadata,
    }


def _features(view: FunctionView) -> dict[str, str]:
    """In words: of the program, and where the description says more, of that."""
    interface = view.interface
    groups: tuple[tuple[str, tuple[Feature, ...]], ...] = (
        ("input", interface.inputs),
        ("output", interface.outputs),
        ("state", interface.states),
    )
    return {
        f"{role} {feature.name}": feature_in_words(feature)
        for role, features in groups
        for feature in features
    }


def _value_changes(
    what: What, where: str, old: Mapping[str, str], new: Mapping[str, str]
) -> Iterator[Change]:
    for key in dict.fromkeys((*old, *new)):
        if old.get(key) != new.get(key):
            kind: Kind = "changed" if key in old and key in new else "removed"
            kind = "added" if key not in old else kind
            name = f"{where}: {key}" if where else key
            yield Change(kind, what, name, old.get(key, ""), new.get(key, ""))


def _manifest_changes(before: Path, after: Path) -> Iterator[Change]:
    """Facts of the manifests, and files outside of packages by their checksums."""
    old, new = read_manifest(before), read_manifest(after)
    facts = [dataclasses.asdict(dataclasses.replace(one, files=())) for one in (old, new)]
    yield from _value_changes("manifest", "", *(dict(_flat(one)) for one in facts))
    packages = tuple(f"{graph.path}/" for graph in (*old.graphs, *new.graphs))
    sums = [
        {
            entry.path: f"{entry.size:,} bytes, {entry.sha256[:12]}"
            for entry in one.files
            if not entry.path.startswith(packages)
        }
        for one in (old, new)
    ]
    yield from _value_changes("file", "", *sums)


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every leaf of nested values with its path."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list | tuple) and any(isinstance(v, Mapping) for v in value):
        for n, inner in enumerate(value):
            name = inner.get("name", n) if isinstance(inner, Mapping) else n
            yield from _flat(inner, f"{path}[{name}]")
    else:
        yield path, str(value)
