"""Is the bundle the model? Runs every stage against PyTorch and judges it by its floor."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

from export.plan import Plan
from mobile_runtime.bundle import read_manifest
from mobile_runtime.chat.conversation import PreparedPrompt
from mobile_runtime.engines import EngineOptions
from mobile_runtime.errors import InputError
from mobile_runtime.model.formats import engine_of
from mobile_runtime.model.hub import bundle_name
from mobile_runtime.session import ChatOptions, Session
from validation.chats import NamedChat
from validation.parity.comparison import Comparison, TextOptions
from validation.parity.meter import Meter
from validation.parity.report import ParityReport, StageResult
from validation.parity.stages import ParityRun, Stage, bundle_stages
from validation.reference.loaded import LoadedWeights
from validation.reference.reference import LOADED_BYTES, Reference
from validation.reference.same_weights import SameWeights
from validation.sources import OpenCheckpoint, bundle_plan, prepared_like


@dataclass(frozen=True)
class ParityOptions:
    """`stages` None runs all of them; see `wanted_stages` for their names."""

    engine: EngineOptions
    new_tokens: int = 8
    stages: Collection[str] | None = None


def run_parity(
    bundle: Path, source: OpenCheckpoint, chats: Sequence[NamedChat], options: ParityOptions
) -> ParityReport:
    """Compare `bundle` with the checkpoint `source` on `chats`; only what the wanted stages need is
    computed. Raises `InputError` if the bundle was not made from `source`."""
    source = prepared_like(bundle, source)
    stages = bundle_stages(read_manifest(bundle))
    wanted = wanted_stages(stages, options.stages)
    session = Session.load(bundle, options.engine)
    plan = bundle_plan(session.manifest, source)
    greedy = any(stage.needs_greedy for stage in stages if stage.name in wanted)
    texts = TextOptions(options.new_tokens, greedy)
    comparison = _open_comparison(session, source, plan, chats, texts)
    run = ParityRun(comparison, plan, source, chats, options.engine.precision)
    return ParityReport(
        bundle=bundle_name(bundle),
        checkpoint=session.manifest.source.name,
        recipe=plan.recipe.name,
        engine=engine_of(session.manifest, options.engine),
        precision=options.engine.precision,
        prompts=tuple(chat.name for chat in chats),
        stages=tuple(
            _measure(stage.name, partial(stage.run, run), stage.name in wanted) for stage in stages
        ),
        tools={"torch": version("torch"), **session.manifest.tools},
    )


def wanted_stages(stages: Sequence[Stage], names: Collection[str] | None) -> frozenset[str]:
    """Return the stages that `names` mean, all for None. A package stands for the stage that runs
    it. Raises `InputError` for unknown names."""
    known = {stage.name: stage.name for stage in stages}
    known |= {graph: stage.name for stage in stages for graph in stage.graphs}
    if unknown := sorted(set(names or ()) - known.keys()):
        raise InputError(f"no stage {', '.join(unknown)}; there are {', '.join(known)}.")
    return frozenset(known[name] for name in (known if names is None else names))


def _measure(name: str, run: Callable[[], StageResult], wanted: bool) -> StageResult:
    """Run a stage. Its cost includes what it computes for later stages."""
    if not wanted:
        return StageResult(name, "not run", note="not selected")
    with Meter() as meter:
        result = run()
    return replace(result, seconds=meter.seconds, peak_bytes=meter.peak_bytes)


def _open_comparison(
    session: Session,
    source: OpenCheckpoint,
    plan: Plan,
    chats: Sequence[NamedChat],
    options: TextOptions,
) -> Comparison:
    """The two references share the memory for loaded weights: they work in turn."""
    loaded = LoadedWeights(LOADED_BYTES)
    same = SameWeights(source.stored, plan)
    # A bundle has a head of its own, stored in another form than the embeddings.
    decoder = replace(source.config.decoder, tie_word_embeddings=False)
    references = (
        Reference(source.config, source.checkpoint, loaded),
        Reference(replace(source.config, decoder=decoder), same, loaded, same.key_query),
    )
    prompts = [prepare_named(session, chat) for chat in chats]
    return Comparison(prompts, session, references, options)


def prepare_named(session: Session, named: NamedChat) -> PreparedPrompt:
    """Return the prompt of a chat, prepared with the bundle's own constants."""
    chat = named.chat
    options = ChatOptions(prompt=chat.options, max_slice_nums=chat.max_slice_nums)
    return session.prepare(chat.messages, options, chat.folder)
