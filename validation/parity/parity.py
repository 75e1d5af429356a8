"""Is the bundle the model? Runs every stage against PyTorch and judges it by its floor."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np

from export.backends import BACKENDS
from export.config import ExportConfig
from export.graphs.graph import Graph
from export.plan import Plan, build_plan
from export.quant.quantize import quantize
from export.quant.recipe import QuantRecipe
from mobile_runtime.bundle import GraphSpec, Manifest, read_manifest
from mobile_runtime.chat.conversation import PreparedPrompt
from mobile_runtime.engines import EngineOptions
from mobile_runtime.errors import InputError
from mobile_runtime.model.formats import engine_of
from mobile_runtime.session import ChatOptions, Session
from validation.chats import NamedChat
from validation.parity.meter import Meter
from validation.parity.metrics import cosine, kl_divergence, psnr, top_agreement
from validation.parity.report import ParityReport, StageResult, Status
from validation.parity.stages import Compared, Comparison, Stage, TextOptions
from validation.parity.trace import prepare_chat
from validation.reference.loaded import LoadedWeights
from validation.reference.reference import LOADED_BYTES, Reference
from validation.reference.same_weights import SameWeights
from validation.sources import OpenCheckpoint, check_source

Array = np.ndarray

FP32_FLOOR = 70.0  # only summation order and the exporter's folds differ
FP16_FLOOR = 50.0
ROUNDED_FLOOR = 40.0  # where the graph rounds activations to 8 bits, as it may below fp32
EIGHT_BIT_FLOOR = 50.0  # of a single matrix: what follows it is reported, not judged
_NEED_GREEDY = ("end_to_end", "greedy_tokens")  # stages that continue the prompts greedily
_MARGIN = 4.0  # a token counts when the reference prefers it by this many logit errors


@dataclass(frozen=True)
class ParityOptions:
    """`stages` None runs all of them; see `wanted_stages` for their names."""

    engine: EngineOptions
    new_tokens: int = 8
    stages: Collection[str] | None = None


def run_parity(
    bundle: Path, source: OpenCheckpoint, chats: Sequence[NamedChat], options: ParityOptions
) -> ParityReport:
    """Compare `bundle` with `source` on `chats`; only what the wanted stages need is computed."""
    wanted = wanted_stages(read_manifest(bundle), options.stages)
    session = Session.load(bundle, options.engine)
    plan = bundle_plan(session.manifest, source)
    texts = TextOptions(options.new_tokens, greedy=not wanted.isdisjoint(_NEED_GREEDY))
    comparison = _open_comparison(session, source, plan, chats, texts)
    precision = options.engine.precision
    stages: Mapping[str, Callable[[], StageResult]] = {
        "preprocessing": partial(_preprocessing, comparison, source, chats),
        "weights": partial(_weights, plan, source),
        **{
            name: partial(_run_stage, name, partial(stage, comparison), plan, precision)
            for name, stage in stage_table(session.manifest).items()
        },
        "greedy_tokens": partial(_greedy_tokens, comparison, [chat.name for chat in chats]),
    }
    return ParityReport(
        bundle=bundle.name,
        checkpoint=session.manifest.source.name,
        recipe=plan.recipe.name,
        engine=engine_of(session.manifest, options.engine),
        precision=precision,
        prompts=tuple(chat.name for chat in chats),
        stages=tuple(_measure(name, run, name in wanted) for name, run in stages.items()),
        tools={"torch": version("torch"), **session.manifest.tools},
    )


def wanted_stages(manifest: Manifest, names: Collection[str] | None) -> frozenset[str]:
    """The stages that `names` mean, all for None. A package stands for the stage that runs it."""
    stages = ("preprocessing", "weights", *stage_table(manifest), "greedy_tokens")
    known = {name: name for name in stages} | {g.name: stage_of(g) for g in manifest.graphs}
    if unknown := sorted(set(names or ()) - known.keys()):
        raise InputError(f"no stage {', '.join(unknown)}; there are {', '.join(known)}.")
    return frozenset(known[name] for name in (stages if names is None else names))


def stage_of(graph: GraphSpec | Graph) -> str:
    """The stage that runs a package."""
    if graph.role == "decoder":
        return graph.name
    return {"lm_head": "logits", "embed_tokens": "embeddings"}.get(graph.role, graph.role)


def _measure(name: str, run: Callable[[], StageResult], wanted: bool) -> StageResult:
    """Run a stage. What it computes for later stages too counts for it."""
    if not wanted:
        return StageResult(name, "not run", note="not selected")
    with Meter() as meter:
        result = run()
    return replace(result, seconds=meter.seconds, peak_bytes=meter.peak_bytes)


def bundle_plan(manifest: Manifest, source: OpenCheckpoint) -> Plan:
    """The plan by which the bundle was made, rebuilt from its manifest and the checkpoint."""
    check_source(manifest, source)
    decoding = manifest.decoding
    config = ExportConfig(
        context_length=decoding.context_length,
        prefill_length=decoding.prefill_length,
        kv_cache=decoding.kv_cache,
    )
    recipe = QuantRecipe.from_json(manifest.recipe)
    return build_plan(
        config, source.config, manifest.preprocessing, BACKENDS[manifest.format], recipe
    )


def stage_table(manifest: Manifest) -> Mapping[str, Stage]:
    """The stages that compare arrays, in order, by name."""
    packages = manifest.graphs_of("decoder")
    text: Mapping[str, Stage]
    if manifest.graphs_of("lm_head"):
        text = {g.name: partial(Comparison.decoder, n=n) for n, g in enumerate(packages)}
        text = {**text, "logits": Comparison.logits}
    else:  # one graph, with its head
        text = {g.name: Comparison.text for g in packages}
    return {
        "vision_encoder": Comparison.vision_encoder,
        "resampler": Comparison.resampler,
        "embeddings": Comparison.embeddings,
        **text,
        "end_to_end": Comparison.end_to_end,
    }


def _open_comparison(
    session: Session,
    source: OpenCheckpoint,
    plan: Plan,
    chats: Sequence[NamedChat],
    options: TextOptions,
) -> Comparison:
    """The two references share the memory for loaded weights: they work in turn."""
    loaded = LoadedWeights(LOADED_BYTES)
    same = SameWeights(source.checkpoint, source.config, plan)
    # A bundle has a head of its own, stored otherwise than the embeddings.
    decoder = replace(source.config.decoder, tie_word_embeddings=False)
    references = (
        Reference(source.config, source.checkpoint, loaded),
        Reference(replace(source.config, decoder=decoder), same, loaded, same.key_query),
    )
    prompts = [prepare_named(session, chat) for chat in chats]
    return Comparison(prompts, session, references, options)


def prepare_named(session: Session, named: NamedChat) -> PreparedPrompt:
    """The prompt of a chat by the bundle's own constants."""
    chat = named.chat
    options = ChatOptions(prompt=chat.options, max_slice_nums=chat.max_slice_nums)
    return session.prepare(chat.messages, options, chat.folder)


def _preprocessing(
    comparison: Comparison, source: OpenCheckpoint, chats: Sequence[NamedChat]
) -> StageResult:
    """The bundle's constants must give what the checkpoint's own files give, bit for bit."""
    differing = []
    for got, named in zip(comparison.prompts, chats, strict=True):
        expected = prepare_chat(source, named.chat)
        if got.keys != expected.keys or not np.array_equal(got.tgt_sizes, expected.tgt_sizes):
            differing.append(named.name)
    if differing:
        note = f"differs for {', '.join(differing)}"
        return StageResult("preprocessing", "failed", note=note)
    return StageResult("preprocessing", "passed", note="token ids and pixels equal")


def _weights(plan: Plan, source: OpenCheckpoint) -> StageResult:
    """What quantization does to single matrices: the worst PSNR of each width.

    Eight bits must keep every matrix above the floor; fewer bits lose what an optimal table loses.
    """
    worst: dict[int, float] = {}
    for parameter in (p for graph in plan.graphs for p in graph.parameters):
        spec = plan.specs.get(parameter.name)
        if spec is not None and spec.method != "dense":
            values = parameter.load(source.checkpoint).astype(np.float32)
            stored = quantize(parameter, source.checkpoint, spec).rows(0, len(values))
            worst[spec.bits] = min(psnr(stored, values), worst.get(spec.bits, np.inf))
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


def _run_stage(
    name: str, stage: Callable[[], Iterator[Compared]], plan: Plan, precision: str
) -> StageResult:
    compared = list(stage())
    if not compared:
        return StageResult(name, "not run", note="no prompt has a picture")
    floor = _floor(name, plan, precision)
    result = StageResult(
        stage=name,
        status="passed",
        conversion_db=min(psnr(c.candidate, c.conversion) for c in compared),
        conversion_floor=floor,
        checkpoint_db=min(psnr(c.candidate, c.checkpoint) for c in compared),
        checkpoint_floor=floor if stage_bits(name, plan) == 16 else None,
        metrics=_metrics(compared, _gives_logits(name, plan)),
    )
    return replace(result, status=_judge(result))


def _floor(stage: str, plan: Plan, precision: str) -> float | None:
    """What a stage must reach against the same weights. What a cache of 8 bits costs depends on
    its scales and on what it holds: it is reported, not judged."""
    if precision == "fp32":
        return FP32_FLOOR
    graphs = _graphs_of(stage, plan)
    if plan.decoding.kv_cache == "int8" and any(graph.role == "decoder" for graph in graphs):
        return None
    specs = [plan.specs.get(p.name) for graph in graphs for p in graph.parameters]
    rounds = any(spec and spec.method in ("affine", "block") for spec in specs)
    return ROUNDED_FLOOR if rounds else FP16_FLOOR


def _graphs_of(stage: str, plan: Plan) -> list[Graph]:
    return [graph for graph in plan.graphs if stage in ("end_to_end", stage_of(graph))]


def _judge(result: StageResult) -> Status:
    pairs = (
        (result.conversion_db, result.conversion_floor),
        (result.checkpoint_db, result.checkpoint_floor),
    )
    # Written so that NaN fails.
    good = all(floor is None or (db is not None and db >= floor) for db, floor in pairs)
    return "passed" if good else "failed"


def stage_bits(stage: str, plan: Plan) -> int:
    """The fewest bits of any weight that the stage uses."""
    if stage == "embeddings":
        return 16 if plan.embed_tokens is None else min(plan.embed_tokens.bits, 16)
    specs = [plan.specs.get(p.name) for g in _graphs_of(stage, plan) for p in g.parameters]
    if stage == "end_to_end":
        specs.append(plan.embed_tokens)
    return min((16 if spec is None else min(spec.bits, 16)) for spec in specs)


def _gives_logits(stage: str, plan: Plan) -> bool:
    """Whether a stage ends with the head: a decoder does where no package is the head's."""
    graphs = _graphs_of(stage, plan)
    whole = not any(graph.role == "lm_head" for graph in plan.graphs)
    return any(g.role == "lm_head" or (whole and g.role == "decoder") for g in graphs)


def _metrics(compared: Sequence[Compared], logits: bool) -> dict[str, float]:
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


def _greedy_tokens(comparison: Comparison, names: Sequence[str]) -> StageResult:
    """Next tokens along the reference's text equal PyTorch's with the bundle's weights.

    A step whose two best reference logits are closer than four times the largest logit difference
    decides nothing: it is excluded and counted.
    """
    close: list[str] = []
    steps = wrong = 0
    for name, compared in zip(names, comparison.end_to_end(), strict=True):
        error = float(np.abs(compared.candidate - compared.conversion).max())
        best = np.sort(compared.conversion, axis=-1)[:, -2:]
        clear = best[:, 1] - best[:, 0] > _MARGIN * error
        differ = compared.candidate.argmax(-1) != compared.conversion.argmax(-1)
        steps += len(clear)
        close += [f"{name} {step}" for step in np.flatnonzero(~clear)]
        wrong += int(np.sum(clear & differ))
    counts = {"steps": steps, "excluded": len(close), "wrong": wrong}
    note = f"too close to call: {', '.join(close)}" if close else ""
    status: Status = "failed" if wrong else "not run" if len(close) == steps else "passed"
    return StageResult("greedy_tokens", status, metrics=counts, note=note)
