"""The bundle on disk: the schema of manifest.json, reading, writing and verifying it.

The leaf of the project: it knows no model, no engine and no exporter. The writer (`export`) and
every reader (`mobile_runtime`, `validation`, the Swift package) meet here and nowhere else.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from mobile_runtime.errors import InputError
from mobile_runtime.files import (
    is_plain,
    is_sealed,
    parse_json,
    path_inside,
    seal_of,
    sealed_json,
    written_whole,
)
from mobile_runtime.strict_json import decode

SCHEMA_VERSION = 3
TEXT_ROLE = "text_"
MANIFEST_NAME = "manifest.json"
_HASH_BLOCK = 1 << 22
_MOST_BYTES = 1 << 26  # of manifest.json; one of a large model has a thousandth of it
_ITEM_SIZES = {"int8": 1, "float16": 2, "float32": 4}


# Names that writers and readers of graphs share.
CACHE = "key_value_cache"  # of a package with static shapes, as a state or an input
PAST, PRESENT = "past_key_values", "present"  # of an ONNX graph


def cache_name(prefix: str, layer: int, kind: str) -> str:
    """Name of an ONNX graph's input (`PAST`) or output (`PRESENT`); `kind` is "key" or "value"."""
    return f"{prefix}.{layer}.{kind}"


def cache_scale_name(layer: int, kind: str) -> str:
    """Name of the scales of a layer's keys or values in an 8-bit key/value cache."""
    return f"llm.model.layers.{layer}.self_attn.{kind}_scale"


def is_cache_scale(name: str) -> bool:
    """Whether `cache_scale_name` made the name."""
    return name.endswith((".self_attn.key_scale", ".self_attn.value_scale"))


Role = Literal["vision_encoder", "resampler", "embed_tokens", "decoder", "lm_head"]


@dataclass(frozen=True)
class TensorSpec:
    """Name, shape (−1: a size that varies) and element type ("float16", "int32", …) of a tensor."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class FunctionSpec:
    """One callable function of a package."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True)
class GraphSpec:
    """One package of the bundle. Functions of one package share its weights and its states."""

    name: str
    role: Role
    path: str
    functions: tuple[FunctionSpec, ...]
    states: tuple[TensorSpec, ...]
    blocks: tuple[int, int]  # half-open range of the layers (or head slices) it holds
    parameters: int
    weight_bytes: int

    def function(self, name: str) -> FunctionSpec:
        """Return the function called `name`. Raises `InputError`, which lists the names that there
        are, if it is not one of them."""
        for function in self.functions:
            if function.name == name:
                return function
        raise InputError(
            f"{self.name} has no function {name!r}; it has "
            f"{', '.join(function.name for function in self.functions)}."
        )


@dataclass(frozen=True)
class TensorFile:
    """A raw little-endian C-order array, to be mapped into memory."""

    path: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class EmbeddingTable:
    """Token embeddings: `table[id] * scales[id]`; without scales the table holds them directly."""

    table: TensorFile
    scales: TensorFile | None


@dataclass(frozen=True)
class Architecture:
    """Sizes of the model that the host needs besides the graphs' own shapes."""

    hidden_size: int
    num_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rope_theta: float
    vocab_size: int
    vision_hidden_size: int
    resampler_heads: int
    num_queries: int


@dataclass(frozen=True)
class Preprocessing:
    """Constants of the published image processor."""

    scale_resolution: int
    patch_size: int
    max_slice_nums: int
    slice_mode: bool
    use_image_id: bool
    norm_mean: tuple[float, ...]
    norm_std: tuple[float, ...]
    num_queries: int  # placeholders per view, or per group of video frames
    position_buckets: int  # the position table has position_buckets² rows
    max_patches: int  # L: patches of the longest view that the vision graph takes


@dataclass(frozen=True)
class SpecialToken:
    """A token that is written by its id; the same letters in a user's text never become it."""

    content: str
    id: int


@dataclass(frozen=True)
class Prompt:
    """Chat format: special tokens by role, the ids that end an answer, the published template.

    Texts may spell the tokens whose roles begin with `TEXT_ROLE`, and no others.
    """

    special_tokens: Mapping[str, SpecialToken]
    stop_token_ids: tuple[int, ...]
    chat_template: str


@dataclass(frozen=True)
class SamplingDefaults:
    """Neutral values: temperature 1, top_k 0 (all tokens), top_p 1, repetition_penalty 1."""

    temperature: float
    top_k: int
    top_p: float
    repetition_penalty: float


@dataclass(frozen=True)
class Generation:
    """Decoding defaults of the published chat(), without and with thinking."""

    answer: SamplingDefaults
    thinking: SamplingDefaults
    max_new_tokens: int


@dataclass(frozen=True)
class Decoding:
    """How the decoder's functions are called; lengths are in tokens.

    `kv_cache` says where keys and values are kept. `state`, `io` (Core ML): in a state of the
    package, or in an input and an output of its functions. `float32`, `int8` (ONNX): in one buffer
    of that type, bound as both input and output.
    """

    context_length: int
    prefill_length: int
    kv_cache: Literal["state", "io", "float32", "int8"]


@dataclass(frozen=True)
class Provenance:
    """Where the weights come from."""

    name: str
    sha256: str  # over names, types, shapes and bytes of the checkpoint's tensors
    license: str


@dataclass(frozen=True)
class FileEntry:
    """One file of the bundle, path relative to it with forward slashes."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """Everything a reader needs to know; manifest.json holds exactly these fields."""

    schema_version: int
    format: str
    model: str
    architecture: Architecture
    preprocessing: Preprocessing
    prompt: Prompt
    generation: Generation
    decoding: Decoding
    graphs: tuple[GraphSpec, ...]
    # Tables for the host, None if a graph holds them: token embeddings; position embeddings of the
    # vision tower, one row per position id; the resampler's queries times its key projection,
    # (heads·queries, D), whose product with a key is the score.
    embed_tokens: EmbeddingTable | None
    position_embeddings: TensorFile | None
    resampler_key_query: TensorFile | None
    recipe: Mapping[str, Any]
    source: Provenance
    tools: Mapping[str, str]
    files: tuple[FileEntry, ...]

    def graphs_of(self, role: str) -> tuple[GraphSpec, ...]:
        """The packages with `role`, in the order in which they run."""
        return tuple(graph for graph in self.graphs if graph.role == role)


def read_manifest(bundle: Path) -> Manifest:
    """Parse and check manifest.json; the files that it lists are not touched.

    Raises `InputError` if it is missing, not valid, or of another schema version.
    """
    path = bundle / MANIFEST_NAME
    if not path.is_file():
        raise InputError(
            f"{bundle} is not a bundle: it has no {MANIFEST_NAME}; "
            "give the folder that `python -m export` printed."
        )
    if (size := path.stat().st_size) > _MOST_BYTES:
        raise InputError(
            f"{path} has {size:,} bytes, more than {_MOST_BYTES:,}; export the bundle again."
        )
    data = path.read_bytes()
    value = parse_json(data, path, "export the bundle again")
    version = value.get("schema_version") if isinstance(value, dict) else None
    if version != SCHEMA_VERSION:
        raise InputError(
            f"{path} has schema version {repr(version)[:40]}, this program reads {SCHEMA_VERSION}; "
            "use a matching version of the program or export the bundle again."
        )
    if not is_sealed(data):
        raise InputError(
            f"{path} was changed after it was written: it does not have the digest that it begins "
            "with; copy or export the bundle again."
        )
    del value["digest"]
    manifest = decode(Manifest, value, "manifest", MANIFEST_NAME, "export the bundle again")
    listed = sorted(entry.path for entry in manifest.files)
    _check_listed_once(listed)
    for name in referenced_paths(manifest):
        resolve_inside(bundle, name)
        if not (_has(listed, name) or _has(listed, f"{name}/", is_folder=True)):
            raise InputError(f"{MANIFEST_NAME} uses {name!r} without listing it; export again.")
    _check_tables(manifest)
    return manifest


def _check_listed_once(listed: Sequence[str]) -> None:
    """Refuse two equal paths, and two that many disks take for one: in other letter case."""
    folded = sorted(("".join(map(str.lower, path)), path) for path in listed)
    for (key, one), (next_key, other) in pairwise(folded):
        if key == next_key:
            on_many_disks = f"{one!r} and {other!r}, which many disks take for one file"
            listing = f"{one!r} twice" if one == other else on_many_disks
            raise InputError(f"{MANIFEST_NAME} lists {listing}; export the bundle again.")


def _has(names: Sequence[str], wanted: str, is_folder: bool = False) -> bool:
    """Whether `wanted`, or something in the folder of that name, is among the sorted names."""
    place = bisect_left(names, wanted)
    found = names[place : place + 1]
    return any(name.startswith(wanted) if is_folder else name == wanted for name in found)


def bundle_digest(bundle: Path) -> str:
    """The digest that manifest.json, which has those of all other files, begins with: bundles that
    have the same are equal."""
    return seal_of((bundle / MANIFEST_NAME).read_bytes())


def referenced_paths(manifest: Manifest) -> Iterator[str]:
    """Paths of the graphs and tables, relative to the bundle."""
    yield from (graph.path for graph in manifest.graphs)
    yield from (table.path for table in _tables(manifest))


def _tables(manifest: Manifest) -> Iterator[TensorFile]:
    embeddings = manifest.embed_tokens
    tables = [manifest.position_embeddings, manifest.resampler_key_query]
    if embeddings is not None:
        tables += [embeddings.table, embeddings.scales]
    yield from (table for table in tables if table is not None)


def _check_tables(manifest: Manifest) -> None:
    """Refuse a table whose shape does not give its file's size: it is mapped as it is."""
    sizes = {entry.path: entry.size for entry in manifest.files}
    for table in _tables(manifest):
        shape, size = (_ITEM_SIZES.get(table.dtype, -1), *table.shape), sizes.get(table.path, -1)
        if min(shape) < 0 or math.prod(shape) != size:
            raise InputError(
                f"{table.path} is {' × '.join(map(str, table.shape))} values of type "
                f"{table.dtype} and has {size} bytes in {MANIFEST_NAME}, which contradict each "
                "other; export the bundle again."
            )


def write_manifest(bundle: Path, manifest: Manifest) -> None:
    """Write manifest.json (sorted by schema, no timestamps: same manifest, same bytes)."""
    with written_whole(bundle / MANIFEST_NAME) as partial:
        partial.write_bytes(sealed_json(dataclasses.asdict(manifest)))


def resolve_inside(bundle: Path, name: str) -> Path:
    """Where `name` lies in `bundle` or its hub's blobs. Raises `InputError` if it leads away."""
    plain, path = is_plain(name), path_inside(bundle, name)
    if path is None or not plain:
        why = "leaves the bundle" if plain else "is not a file's path"
        raise InputError(f"{MANIFEST_NAME} names {name!r}, which {why}; do not use it.")
    return path


def full_precision_path(graph: Path) -> Path:
    """Path of the float32 twin, with equal weights, of an ONNX graph that rounds activations."""
    return graph.with_stem(f"{graph.stem}_exact")


def list_files(bundle: Path, skip: Collection[str] = ()) -> tuple[FileEntry, ...]:
    """Every file below `bundle` except the manifest and the paths to `skip`, sorted by path, with
    size and SHA-256."""
    paths = (p for p in bundle.rglob("*") if p.is_file() and p.name != MANIFEST_NAME)
    named = {p.relative_to(bundle).as_posix(): p for p in paths}
    return tuple(
        FileEntry(name, path.stat().st_size, file_sha256(path))
        for name, path in sorted(named.items())
        if name not in skip
    )


def verify_files(bundle: Path, manifest: Manifest) -> None:
    """Raises `InputError` unless each listed file is there with the listed size and SHA-256."""
    for entry in manifest.files:
        path = resolve_inside(bundle, entry.path)
        if not path.is_file():
            raise InputError(f"{bundle} lacks {entry.path}; copy or export the bundle again.")
        if path.stat().st_size != entry.size:
            raise InputError(
                f"{entry.path} has {path.stat().st_size} bytes, the manifest says {entry.size}; "
                "copy or export the bundle again."
            )
        if file_sha256(path) != entry.sha256:
            raise InputError(
                f"{entry.path} does not match its checksum: the file was changed or damaged; "
                "copy or export the bundle again."
            )


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_HASH_BLOCK):
            digest.update(block)
    return digest.hexdigest()
