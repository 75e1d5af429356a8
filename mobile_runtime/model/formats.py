"""The formats of bundles: which engines run one, what its manifest must hold, how its model opens.

A new format is one module with its drivers and one line here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mobile_runtime.bundle import GraphSpec, Manifest
from mobile_runtime.engines import AUTO, EngineOptions, check_engine
from mobile_runtime.errors import InputError
from mobile_runtime.model.model import Model

_REMEDY = "export the bundle again"


@dataclass(frozen=True)
class Format:
    """How bundles of one format run.

    `engines` can run it, the first one by default. A manifest must name every table of `tables` and
    as many graphs of each role as `roles` says: exactly one ("one") or at least one ("some").
    """

    engines: tuple[str, ...]
    roles: tuple[tuple[str, str], ...]
    tables: tuple[str, ...]
    open: Callable[[Path, Manifest, EngineOptions], Model]
    takes_prepacked: bool = False

    def check(self, manifest: Manifest) -> None:
        """Raises `InputError` if the manifest lacks a graph or a table, or has too many of a
        role."""
        for role, wanted in self.roles:
            found = manifest.graphs_of(role)
            if not found or (wanted == "one" and len(found) > 1):
                raise InputError(
                    f"a {manifest.format} bundle needs {_WANTED[wanted]} of the role {role}, its "
                    f"manifest names {_names(found)}; {_REMEDY}."
                )
        if missing := [name for name in self.tables if getattr(manifest, name) is None]:
            raise InputError(
                f"a {manifest.format} bundle needs the table {' and the table '.join(missing)}, "
                f"which its manifest does not name; {_REMEDY}."
            )

    def choose_engine(self, manifest: Manifest, options: EngineOptions) -> EngineOptions:
        """Return the options with the engine's own name. Raises `InputError` for options that the
        format does not take, and for an engine or device that is not here."""
        if options.name not in (AUTO, *self.engines):
            raise InputError(
                f"the engine {options.name} does not run {manifest.format} bundles; use the engine "
                f"{' or '.join(self.engines)}, or none."
            )
        if options.prepacked is not None and not self.takes_prepacked:
            raise InputError(
                f"this is a {manifest.format} bundle, and only the weights of ONNX graphs are kept "
                "prepacked; leave --prepacked out."
            )
        chosen = replace(options, name=self.engines[0]) if options.name == AUTO else options
        check_engine(chosen)
        return chosen


_WANTED = {"one": "one graph", "some": "at least one graph"}


def _names(graphs: Sequence[GraphSpec]) -> str:
    return ", ".join(graph.name for graph in graphs) or "none"


def _open_coreml(bundle: Path, manifest: Manifest, options: EngineOptions) -> Model:
    from mobile_runtime.model.static_decoder import (
        StaticDecoder,
        StaticEmbedding,
        StaticGraphs,
    )
    from mobile_runtime.model.static_vision import StaticVision

    return Model(
        StaticEmbedding(bundle, manifest),
        StaticVision(bundle, manifest, options),
        StaticDecoder(StaticGraphs(bundle, manifest, options), manifest),
    )


def _open_onnx(bundle: Path, manifest: Manifest, options: EngineOptions) -> Model:
    from mobile_runtime.model.onnx import OnnxDecoder, OnnxEmbedding, OnnxGraphs, OnnxVision

    graphs = OnnxGraphs(bundle, manifest, options)
    return Model(OnnxEmbedding(graphs), OnnxVision(graphs, manifest), OnnxDecoder(graphs, manifest))


_ONNX = Format(
    engines=("onnx",),
    roles=tuple(
        (role, "one") for role in ("vision_encoder", "resampler", "embed_tokens", "decoder")
    ),
    tables=(),
    open=_open_onnx,
    takes_prepacked=True,
)
FORMATS: dict[str, Format] = {
    "coreml": Format(
        engines=("mil", "coreml", "torch"),
        roles=(
            ("vision_encoder", "some"),
            ("resampler", "one"),
            ("decoder", "some"),
            ("lm_head", "some"),
        ),
        tables=("embed_tokens", "position_embeddings", "resampler_key_query"),
        open=_open_coreml,
    ),
    "onnx": _ONNX,
    "onnx-portable": _ONNX,
}


def format_of(manifest: Manifest) -> Format:
    """Return the format of a bundle. Raises `InputError` if it is not known or the manifest lacks
    something that it needs."""
    if manifest.format not in FORMATS:
        raise InputError(
            f"the bundle's format is {manifest.format!r}; this program runs {', '.join(FORMATS)}: "
            "use a matching version of the program."
        )
    found = FORMATS[manifest.format]
    found.check(manifest)
    return found


def open_model(bundle: Path, manifest: Manifest, options: EngineOptions) -> Model:
    """Open the model of a bundle; its packages are opened when they are first needed.

    Raises `InputError` for options that the format does not take.
    """
    found = format_of(manifest)
    return found.open(bundle, manifest, found.choose_engine(manifest, options))


def engine_of(manifest: Manifest, options: EngineOptions) -> str:
    """The engine that runs the bundle with these options."""
    return format_of(manifest).choose_engine(manifest, options).name


def require_engine(bundle: Path, manifest: Manifest, engine: str, purpose: str) -> None:
    """Raises `InputError`, which ends with `purpose`, if `engine` does not run the bundle."""
    if engine not in format_of(manifest).engines:
        raise InputError(f"{bundle} is a {manifest.format} bundle; {purpose}.")
