"""Runs a bundle on chats, or a package on arrays and pictures, in both precisions at once.

Each package is given what full precision computed before it, so that it answers for its own error.
What half precision costs in the end comes from a plain run of the whole chain besides.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mobile_runtime.bundle import read_manifest
from mobile_runtime.engines import EngineOptions
from mobile_runtime.engines.memory import Limits
from mobile_runtime.errors import InputError
from mobile_runtime.mlprogram.model_file import read_model, reading
from mobile_runtime.model.formats import require_engine
from mobile_runtime.model.static_decoder import StaticDecoder, StaticGraphs
from mobile_runtime.package.model import OpenModel
from mobile_runtime.package.pictures import fit_picture
from mobile_runtime.package.pipeline import open_model
from mobile_runtime.pictures.images import load_image
from mobile_runtime.session import ChatOptions, Session
from validation.chats import NamedChat
from validation.parity.audit.findings import Audited, Cost, Findings
from validation.parity.metrics import kl_divergence, psnr, top_agreement

Array = np.ndarray
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".heic")


@dataclass(frozen=True)
class Audit:
    """What was found in `target`, and what it costs for each of the inputs."""

    target: str
    operations: Sequence[Audited]  # worst first
    starts: Sequence[Audited]  # at which each package that goes wrong does
    costs: Sequence[Cost]

    @property
    def failed(self) -> bool:
        """Whether an operation is wrong in half precision."""
        return bool(self.starts)


def pictures_in(folder: Path) -> list[Path]:
    """The pictures in a folder, by name. Raises `InputError` if there are none."""
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; give one that holds pictures.")
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES)
    if not found:
        raise InputError(f"{folder} holds no picture ({', '.join(PICTURES)}); give another folder.")
    return found


class _FilledDecoder(StaticDecoder):
    """A decoder whose blocks repeat their last row in place of padding: rows of zeros, which no
    result depends on, would be judged with the others."""

    def block_inputs(self, embeddings: Array, position: int, length: int) -> dict[str, Array]:
        """See `StaticDecoder.block_inputs`."""
        filling = np.repeat(embeddings[-1:], length - len(embeddings), axis=0)
        return super().block_inputs(np.concatenate([embeddings, filling]), position, length)


def audit_bundle(bundle: Path, chats: Sequence[NamedChat], new_tokens: int) -> Audit:
    """Run every chat and `new_tokens` tokens after it, which full precision chooses. Raises
    `InputError` for a bundle of another format and for chats that it does not take."""
    require_engine(bundle, read_manifest(bundle), "mil", "audit reads Core ML bundles")
    findings = Findings()
    observed = EngineOptions("mil", "fp16", observer=findings)
    exact = Session.load(bundle, observed)
    graphs = StaticGraphs(bundle, exact.manifest, observed)
    exact.model = replace(exact.model, decoder=_FilledDecoder(graphs, exact.manifest))
    plain = Session.load(bundle, EngineOptions("mil", "fp16"), verify=False)
    costs = [_answer(exact, plain, named, new_tokens) for named in chats]
    return Audit(bundle.name, findings.worst_first(), findings.starts(), costs)


def _answer(exact: Session, plain: Session, named: NamedChat, new_tokens: int) -> Cost:
    """Logits of one chat in both precisions, along the text that full precision chooses."""
    chat = named.chat
    options = ChatOptions(prompt=chat.options, max_slice_nums=chat.max_slice_nums)
    prompt = exact.prepare(chat.messages, options, chat.folder)
    room = exact.manifest.decoding.context_length - len(prompt.keys)
    for session in (exact, plain):
        session.reset()
    full, half = [exact.prefill(prompt)], [plain.prefill(prompt)]
    for _ in range(min(new_tokens, room)):
        token = int(full[-1].argmax())
        full.append(exact.decode(token))
        half.append(plain.decode(token))
    reference, candidate = np.stack(full), np.stack(half)
    if not np.isfinite(candidate).all():
        return Cost(named.name, -np.inf, {}, "half precision gives no answer: its logits are NaN")
    metrics = {
        "KL": kl_divergence(candidate, reference),
        "top-1": top_agreement(candidate, reference, 1),
    }
    return Cost(named.name, psnr(candidate, reference), metrics, _difference(exact, full, half))


def _difference(session: Session, full: Sequence[Array], half: Sequence[Array]) -> str:
    """Where the answers part, in words; "" if they are one."""
    for n, (exact, rounded) in enumerate(zip(full, half, strict=True)):
        wanted, got = int(exact.argmax()), int(rounded.argmax())
        if wanted != got:
            texts = [session.tokenizer.decode([token]) for token in (wanted, got)]
            return f"token {n + 1} is {texts[1]!r} in place of {texts[0]!r}"
    return ""


def audit_package(
    package: Path,
    arrays: Mapping[str, Any],
    pictures: Sequence[Path],
    function: str | None = None,
    limits: Limits = Limits(),
) -> Audit:
    """Run one function on `arrays`, once for each of `pictures`, which take the place of the
    package's picture. Raises `InputError` for what the package does not take."""
    findings, file = Findings(), read_model(package)
    with reading(package):
        exact, plain = (
            open_model(file, file.message, EngineOptions("mil", limits=limits, observer=observer))
            for observer in (findings, None)
        )
    costs = [
        _outputs(name, exact.run(given, function), plain.run(given, function))
        for name, given in _calls(plain, package, arrays, pictures, function)
    ]
    return Audit(package.name, findings.worst_first(), findings.starts(), costs)


def _calls(
    model: OpenModel,
    package: Path,
    arrays: Mapping[str, Any],
    pictures: Sequence[Path],
    function: str | None,
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if not pictures:
        yield "inputs", arrays
        return
    interface = model.description.interface(function, package.name)
    places = [feature for feature in interface.inputs if feature.kind == "picture"]
    if len(places) != 1:
        raise InputError(
            f"{package.name} has {len(places)} inputs that are pictures, and --images is for one; "
            "give --inputs, arrays of all inputs."
        )
    for path in pictures:
        yield path.name, {**arrays, places[0].name: fit_picture(places[0], load_image(path), True)}


def _outputs(name: str, exact: Mapping[str, Any], rounded: Mapping[str, Any]) -> Cost:
    """Every output in both precisions; what is no array is compared by value."""
    found: dict[str, float] = {}
    differing = []
    for key, value in exact.items():
        got = rounded[key]
        if not isinstance(value, np.ndarray):
            differing += [] if isinstance(value, dict) or got == value else [key]
        elif value.shape != got.shape:
            differing.append(key)
        else:
            found[key] = psnr(got, value) if np.isfinite(got).all() else -np.inf
    note = f"differs: {', '.join(differing)}" if differing else ""
    return Cost(name, min(found.values(), default=np.inf), found, note)
