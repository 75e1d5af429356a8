"""The stages of a parity run: `STAGES`, in order. A new stage is a function and a line there.

A stage is data: its name, the graphs of the bundle that it runs, and the function that gives its
result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from export.graphs.graph import Parameter
from export.graphs.weights import load_weight, observed, store
from export.models.tensors import EMBED_TOKENS
from export.plan import Plan
from export.quant.methods import STORED
from export.quant.recipe import QuantSpec
from export.quant.weights import Weight
from mobile_runtime.bundle import GraphSpec, Manifest
from mobile_runtime.chat.conversation import PreparedPrompt
from validation.chats import NamedChat
from validation.parity.comparison import Compared, Comparison
from validation.parity.metrics import cosine, kl_divergence, psnr, top_agreement
from validation.parity.report import StageResult, Status
from validation.parity.trace import prepare_chat
from validation.sources import OpenCheckpoint

FP32_FLOOR = 70.0  # only summation order and the exporter's folds differ
FP16_FLOOR = 50.0
ROUNDED_FLOOR = 40.0  # if the graph rounds activations to 8 bits, as it may below fp32
EIGHT_BIT_FLOOR = 50.0  # of a single matrix: what follows it is reported, not judged
_FLOAT_BITS = 16  # of a stage without quantized weights
_MARGIN = 4.0  # a token counts when the reference prefers it by this many logit errors


@dataclass(frozen=True)
class ParityRun:
    """The inputs that all stages share."""

    comparison: Comparison
    plan: Plan
    source: OpenCheckpoint
    chats: Sequence[NamedChat]
    precision: str


@dataclass(frozen=True)
class Stage:
    """`graphs` are the bundle's graphs that the stage runs; their names stand for it. A stage with
    `needs_greedy` continues the prompts as the checkpoint would."""

    name: str
    run: Callable[[ParityRun], StageResult]
    graphs: tuple[str, ...] = ()
    needs_greedy: bool = False


def bundle_stages(manifest: Manifest) -> tuple[Stage, ...]:
    """All stages of a bundle, in order."""
    return tuple(stage for build in STAGES for stage in build(manifest))


def _preprocessing(manifest: Manifest) -> Iterator[Stage]:
    yield Stage("preprocessing", _compare_preprocessing)


def _weights(manifest: Manifest) -> Iterator[Stage]:
    yield Stage("weights", _measure_weights)


def _vision(manifest: Manifest) -> Iterator[Stage]:
    for role, compare in (
        ("vision_encoder", Comparison.vision_encoder),
        ("resampler", Comparison.resampler),
    ):
        yield _arrays(role, compare, manifest.graphs_of(role))


def _embeddings(manifest: Manifest) -> Iterator[Stage]:
    graphs = manifest.graphs_of("embed_tokens")
    yield _arrays("embeddings", Comparison.embeddings, graphs, tables=(EMBED_TOKENS,))


def _text(manifest: Manifest) -> Iterator[Stage]:
    packages, heads = manifest.graphs_of("decoder"), manifest.graphs_of("lm_head")
    for n, package in enumerate(packages):
        if heads:
            yield _arrays(package.name, partial(Comparison.decoder, n=n), [package])
        else:  # one graph, with its head
            yield _arrays(package.name, Comparison.text, [package], gives_logits=True)
    if heads:
        yield _arrays("logits", Comparison.logits, heads, gives_logits=True)


def _end_to_end(manifest: Manifest) -> Iterator[Stage]:
    whole = _arrays(
        "end_to_end",
        Comparison.end_to_end,
        manifest.graphs,
        tables=(EMBED_TOKENS,),
        gives_logits=True,
    )
    yield replace(whole, graphs=(), needs_greedy=True)
    yield Stage("greedy_tokens", _compare_greedy_tokens, needs_greedy=True)


STAGES: list[Callable[[Manifest], Iterable[Stage]]] = [
    _preprocessing,
    _weights,
    _vision,
    _embeddings,
    _text,
    _end_to_end,
]


def _arrays(
    name: str,
    compare: Callable[[Comparison], Iterator[Compared]],
    graphs: Sequence[GraphSpec],
    *,
    tables: Sequence[str] = (),
    gives_logits: bool = False,
) -> Stage:
    """A stage that compares arrays; it uses the weights of `graphs` and the `tables`."""
    names = tuple(graph.name for graph in graphs)
    judged = _ArrayStage(name, compare, names, tuple(tables), gives_logits)
    return Stage(name, judged.run, names)


@dataclass(frozen=True)
class _ArrayStage:
    name: str
    compare: Callable[[Comparison], Iterator[Compared]]
    graphs: tuple[str, ...]
    tables: tuple[str, ...]
    gives_logits: bool

    def run(self, run: ParityRun) -> StageResult:
        """Judge the worst prompt."""
        compared = list(self.compare(run.comparison))
        if not compared:
            return StageResult(self.name, "not run", note="no prompt has a picture")
        floor = self._floor(run)
        bits = min(min(spec.bits, _FLOAT_BITS) for spec in self._specs(run.plan))
        result = StageResult(
            stage=self.name,
            status="passed",
            same_weights_db=min(psnr(c.candidate, c.same_weights) for c in compared),
            same_weights_floor=floor,
            checkpoint_db=min(psnr(c.candidate, c.checkpoint) for c in compared),
            checkpoint_floor=floor if bits == _FLOAT_BITS else None,
            metrics=_metrics(compared, self.gives_logits),
        )
        return replace(result, status=_judge(result))

    def _specs(self, plan: Plan) -> list[QuantSpec]:
        """How the weights that the stage uses are stored."""
        graphs = (graph for graph in plan.graphs if graph.name in self.graphs)
        names = [parameter.name for graph in graphs for parameter in graph.parameters]
        return [plan.specs[name] for name in (*names, *self.tables)]

    def _floor(self, run: ParityRun) -> float | None:
        """Return the least dB against the same weights. The error of an 8-bit cache depends on its
        scales and contents: it is reported, not judged, so the floor is None."""
        if run.precision == "fp32":
            return FP32_FLOOR
        roles = {graph.role for graph in run.plan.graphs if graph.name in self.graphs}
        if run.plan.decoding.kv_cache == "int8" and "decoder" in roles:
            return None
        rounds = any(spec.form in ("rows", "blocks") for spec in self._specs(run.plan))
        return ROUNDED_FLOOR if rounds else FP16_FLOOR


def _judge(result: StageResult) -> Status:
    pairs = (
        (result.same_weights_db, result.same_weights_floor),
        (result.checkpoint_db, result.checkpoint_floor),
    )
    # Written so that NaN fails.
    good = all(floor is None or (db is not None and db >= floor) for db, floor in pairs)
    return "passed" if good else "failed"


def _metrics(compared: Sequence[Compared], logits: bool) -> Mapping[str, float]:
    """Against the checkpoint: what quantization and precision cost together."""
    if not logits:
        return {"cosine": min(cosine(c.candidate, c.checkpoint) for c in compared)}
    candidate = np.concatenate([c.candidate for c in compared])
    checkpoint = np.concatenate([c.checkpoint for c in compared])
    return {
        "KL": kl_divergence(candidate, checkpoint),
        "top-1": top_agreement(candidate, checkpoint, 1),
        "top-5": top_agreement(candidate, checkpoint, 5),
    }


def _compare_preprocessing(run: ParityRun) -> StageResult:
    """The bundle's constants must give what the checkpoint's own files give, bit for bit."""
    differing = []
    for got, named in zip(run.comparison.prompts, run.chats, strict=True):
        expected = prepare_chat(run.source, named.chat)
        if got.keys != expected.keys or not _equal_views(got, expected):
            differing.append(named.name)
    if differing:
        note = f"differs for {', '.join(differing)}"
        return StageResult("preprocessing", "failed", note=note)
    return StageResult("preprocessing", "passed", note="token ids and pixels equal")


def _equal_views(got: PreparedPrompt, expected: PreparedPrompt) -> bool:
    """Whether the graphs are given the same: keys know only what was not normalised yet."""
    views, others = ([view for group in one.groups for view in group] for one in (got, expected))
    return all(
        view.tgt_size == other.tgt_size and np.array_equal(view.strip, other.strip)
        for view, other in zip(views, others, strict=True)
    )


def _measure_weights(run: ParityRun) -> StageResult:
    """Measure what quantization does to single matrices: the worst PSNR for each number of bits.

    Eight bits must keep every matrix above the floor; fewer bits lose what an optimal table loses.
    """
    worst: dict[int, float] = {}
    checkpoint = run.source.checkpoint
    for parameter in (p for graph in run.plan.graphs for p in graph.parameters):
        spec = run.plan.specs[parameter.name]
        if spec.form == "floats":
            continue
        loaded = parameter.load(checkpoint)
        if not isinstance(loaded, np.ndarray):
            if spec.method == STORED:
                continue  # the checkpoint's own integers
            loaded = loaded.dequantize()
        weight = _stored(run, parameter, loaded)
        quality = psnr(weight.rows(0, len(loaded)), loaded.astype(np.float32))
        worst[spec.bits] = min(quality, worst.get(spec.bits, np.inf))
    if not worst:
        return StageResult("weights", "passed", note="nothing is quantized")
    figures = {f"{bits}-bit dB": worst[bits] for bits in sorted(worst)}
    good = worst.get(8, np.inf) >= EIGHT_BIT_FLOOR
    return StageResult(
        "weights",
        "passed" if good else "failed",
        checkpoint_db=min(worst.values()),
        checkpoint_floor=EIGHT_BIT_FLOOR if set(worst) == {8} else None,
        metrics=figures,
    )


def _stored(run: ParityRun, parameter: Parameter, loaded: np.ndarray) -> Weight:
    """The parameter as the bundle stores it, from its values or finished by a calibration."""
    spec = run.plan.specs[parameter.name]
    if spec.method == STORED:
        return load_weight(parameter, run.source.stored, spec)
    return store(parameter, loaded, spec, observed(parameter, run.source.checkpoint))


def _compare_greedy_tokens(run: ParityRun) -> StageResult:
    """Compare the next tokens along the reference's text with PyTorch's with the bundle's weights.

    A step whose two best reference logits are closer than four times the largest logit difference
    decides nothing: it is excluded and counted.
    """
    close: list[str] = []
    steps = wrong = 0
    for named, compared in zip(run.chats, run.comparison.end_to_end(), strict=True):
        error = float(np.abs(compared.candidate - compared.same_weights).max())
        best = np.sort(compared.same_weights, axis=-1)[:, -2:]
        clear = best[:, 1] - best[:, 0] > _MARGIN * error
        differ = compared.candidate.argmax(-1) != compared.same_weights.argmax(-1)
        steps += len(clear)
        close += [f"{named.name} {step}" for step in np.flatnonzero(~clear)]
        wrong += int(np.sum(clear & differ))
    counts = {"steps": steps, "excluded": len(close), "wrong": wrong}
    note = f"too close to call: {', '.join(close)}" if close else ""
    status: Status = "failed" if wrong else "not run" if len(close) == steps else "passed"
    return StageResult("greedy_tokens", status, metrics=counts, note=note)
