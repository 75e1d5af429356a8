"""Is the bundle the model? Runs every stage against PyTorch and judges it by its floor."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np

from export.backends import BACKENDS
from export.config import ExportConfig
from export.plan import Plan, build_plan
from export.quant.quantize import quantize
from export.quant.recipe import QuantRecipe
from mobile_runtime.bundle import InputError, Manifest
from mobile_runtime.conversation import PreparedPrompt
from mobile_runtime.engines import EngineOptions
from mobile_runtime.session import ChatOptions, Session
from validation.default_prompts import NamedChat
from validation.metrics import cosine, kl_divergence, psnr, top_agreement
from validation.reference import Reference
from validation.report import ParityReport, StageResult, Status
from validation.same_weights import SameWeights
from validation.sources import OpenCheckpoint, check_source
from validation.stages import Compared, PromptRun, Stage
from validation.trace import prepare_chat

Array = np.ndarray

FP32_FLOOR = 70.0  # only summation order and the exporter's folds differ
FP16_FLOOR = 50.0
EIGHT_BIT_FLOOR = 50.0  # of a single matrix: what follows it is reported, not judged
_MARGIN = 4.0  # a token counts when the reference prefers it by this many logit errors


@dataclass(frozen=True)
class ParityOptions:
    """`stages` None runs all of them."""

    engine: EngineOptions
    new_tokens: int = 8
    stages: Collection[str] | None = None


def run_parity(
    bundle: Path, source: OpenCheckpoint, chats: Sequence[NamedChat], options: ParityOptions
) -> ParityReport:
    """Compare `bundle` with `source` on `chats`."""
    session = Session.load(bundle, options.engine)
    plan = bundle_plan(session.manifest, source)
    runs = _prompt_runs(session, source, plan, chats, options)
    stages = stage_table(session.manifest)
    names = ["preprocessing", "weights", *stages, "greedy_tokens"]
    if unknown := set(options.stages or ()) - set(names):
        raise InputError(f"no stage {', '.join(sorted(unknown))}; there are {', '.join(names)}.")
    results = [_preprocessing(runs, source, chats, options), _weights(plan, source, options)]
    results += [_run_stage(name, stage, runs, plan, options) for name, stage in stages.items()]
    results.append(_greedy_tokens(runs, options))
    return ParityReport(
        bundle=bundle.name,
        checkpoint=session.manifest.source.name,
        recipe=plan.recipe.name,
        engine="mil" if options.engine.name == "auto" else options.engine.name,
        precision=options.engine.precision,
        prompts=tuple(chat.name for chat in chats),
        stages=tuple(results),
        tools={"torch": version("torch"), **session.manifest.tools},
    )


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
    return {
        "vision_encoder": PromptRun.vision_encoder,
        "resampler": PromptRun.resampler,
        "embeddings": PromptRun.embeddings,
        **{g.name: partial(PromptRun.decoder, n=n) for n, g in enumerate(packages)},
        "logits": PromptRun.logits,
        "end_to_end": PromptRun.end_to_end,
    }


def _prompt_runs(
    session: Session,
    source: OpenCheckpoint,
    plan: Plan,
    chats: Sequence[NamedChat],
    options: ParityOptions,
) -> list[PromptRun]:
    same = SameWeights(source.checkpoint, source.config, plan)
    conversion = Reference(source.config, same)
    conversion.use_key_query(same.key_query())
    references = Reference(source.config, source.checkpoint), conversion
    return [
        PromptRun(
            (chat.name, prepare_named(session, chat)), session, references, options.new_tokens
        )
        for chat in chats
    ]


def prepare_named(session: Session, named: NamedChat) -> PreparedPrompt:
    """The prompt of a chat by the bundle's own constants."""
    chat = named.chat
    options = ChatOptions(prompt=chat.options, max_slice_nums=chat.max_slice_nums)
    return session.prepare(chat.messages, options, chat.folder)


def _preprocessing(
    runs: Sequence[PromptRun],
    source: OpenCheckpoint,
    chats: Sequence[NamedChat],
    options: ParityOptions,
) -> StageResult:
    """The bundle's constants must give what the checkpoint's own files give, bit for bit."""
    if not _wanted("preprocessing", options):
        return StageResult("preprocessing", "not run", note="not selected")
    differing = []
    for run, named in zip(runs, chats, strict=True):
        got, expected = run.prompt, prepare_chat(source, named.chat)
        if got.keys != expected.keys or not np.array_equal(got.tgt_sizes, expected.tgt_sizes):
            differing.append(named.name)
    if differing:
        note = f"differs for {', '.join(differing)}"
        return StageResult("preprocessing", "failed", note=note)
    return StageResult("preprocessing", "passed", note="token ids and pixels equal")


def _weights(plan: Plan, source: OpenCheckpoint, options: ParityOptions) -> StageResult:
    """What quantization does to single matrices: the worst PSNR of each width.

    Eight bits must keep every matrix above the floor; fewer bits lose what an optimal table loses.
    """
    if not _wanted("weights", options):
        return StageResult("weights", "not run", note="not selected")
    worst: dict[int, float] = {}
    for parameter in (p for graph in plan.graphs for p in graph.parameters):
        spec = plan.specs.get(parameter.name)
        if spec is not None:
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


def _wanted(stage: str, options: ParityOptions) -> bool:
    return options.stages is None or stage in options.stages


def _run_stage(
    name: str, stage: Stage, runs: Sequence[PromptRun], plan: Plan, options: ParityOptions
) -> StageResult:
    if not _wanted(name, options):
        return StageResult(name, "not run", note="not selected")
    compared = [item for run in runs for item in stage(run)]
    if not compared:
        return StageResult(name, "not run", note="no prompt has a picture")
    floor = FP32_FLOOR if options.engine.precision == "fp32" else FP16_FLOOR
    result = StageResult(
        stage=name,
        status="passed",
        conversion_db=min(psnr(c.candidate, c.conversion) for c in compared),
        conversion_floor=floor,
        checkpoint_db=min(psnr(c.candidate, c.checkpoint) for c in compared),
        checkpoint_floor=floor if stage_bits(name, plan) == 16 else None,
        metrics=_metrics(name, compared),
    )
    return replace(result, status=_judge(result))


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
        return 16 if plan.embed_tokens is None else plan.embed_tokens.bits
    roles = {"logits": "lm_head"}
    names = {stage, roles.get(stage, stage)}
    graphs = [
        graph
        for graph in plan.graphs
        if stage == "end_to_end" or graph.name in names or graph.role in names
    ]
    specs = [plan.specs.get(p.name) for graph in graphs for p in graph.parameters]
    if stage == "end_to_end":
        specs.append(plan.embed_tokens)
    return min((16 if spec is None else spec.bits) for spec in specs)


def _metrics(name: str, compared: Sequence[Compared]) -> dict[str, float]:
    """Against the checkpoint: what quantization and precision cost together."""
    if name not in ("logits", "end_to_end"):
        return {"cosine": min(cosine(c.candidate, c.checkpoint) for c in compared)}
    candidate = np.concatenate([c.candidate for c in compared])
    checkpoint = np.concatenate([c.checkpoint for c in compared])
    return {
        "KL": kl_divergence(candidate, checkpoint),
        "top-1": top_agreement(candidate, checkpoint, 1),
        "top-5": top_agreement(candidate, checkpoint, 5),
    }


def _greedy_tokens(runs: Sequence[PromptRun], options: ParityOptions) -> StageResult:
    """Next tokens along the reference's text equal PyTorch's with the bundle's weights.

    A step whose two best reference logits are closer than four times the largest logit difference
    decides nothing: it is excluded and counted.
    """
    if not _wanted("greedy_tokens", options):
        return StageResult("greedy_tokens", "not run", note="not selected")
    close: list[str] = []
    steps = wrong = 0
    for run in runs:
        for compared in run.end_to_end():
            error = float(np.abs(compared.candidate - compared.conversion).max())
            best = np.sort(compared.conversion, axis=-1)[:, -2:]
            clear = best[:, 1] - best[:, 0] > _MARGIN * error
            differ = compared.candidate.argmax(-1) != compared.conversion.argmax(-1)
            steps += len(clear)
            close += [f"{run.name} {step}" for step in np.flatnonzero(~clear)]
            wrong += int(np.sum(clear & differ))
    counts = {"steps": steps, "excluded": len(close), "wrong": wrong}
    note = f"too close to call: {', '.join(close)}" if close else ""
    status: Status = "failed" if wrong else "not run" if len(close) == steps else "passed"
    return StageResult("greedy_tokens", status, metrics=counts, note=note)
