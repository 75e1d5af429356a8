"""`python -m export BACKEND`: one subcommand per backend, one flag per field of ExportConfig; and
`python -m export upload`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from export.backends import BACKENDS
from export.backends.base import Backend
from export.build.progress import Progress
from export.config import ExportConfig
from export.pipeline import export_bundle
from export.quant.recipes import CALIBRATED_RECIPES, SHIPPED_EXAMPLES, UNCALIBRATED_RECIPE
from export.releases import DEFAULT_RELEASE
from export.upload import Upload
from mobile_runtime.command import printable, run_command
from mobile_runtime.errors import InputError

_UPLOAD = "upload"
_AGAIN = "interrupted; run the same command again to continue"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run an export; the bundle's path is the last line on stdout.

    Return 0, 2 after a mistake that the user can correct, or 130 after Ctrl-C.
    """
    options = vars(_parser().parse_args(arguments))
    chosen = options.pop("backend")
    if chosen == _UPLOAD:
        return run_command(lambda: _upload(**options), _AGAIN)
    backend, quiet = BACKENDS[chosen], options.pop("quiet")

    def run() -> int:
        several = {
            "override": _overrides(options["override"]),
            "adapters": tuple(options["adapters"]),
        }
        config = ExportConfig(**options | several)
        bundle = export_bundle(config, backend, Progress(quiet))
        if not config.plan:
            print(bundle)
        return 0

    return run_command(run, _AGAIN)


def _upload(bundle: Path, repo: str, accept_licence: bool, **options: Any) -> int:
    upload = Upload(bundle, repo, **options)
    if not accept_licence:
        _ask_about_licence(upload)
    print(upload.run())
    return 0


def _ask_about_licence(upload: Upload) -> None:
    """Raises `InputError` unless the user says that the weights may be published."""
    said = f"{upload.manifest.source.name} is under: {upload.manifest.source.license}"
    if sys.stdin is None or not sys.stdin.isatty():
        raise InputError(
            f"{said}; if you may pass its weights on under that licence, give --accept-licence."
        )
    print(printable(f"{said}.\nMay you pass its weights on under that licence? [y/N] "), end="")
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise InputError("the licence was not accepted, and nothing was uploaded; answer y for it.")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m export",
        description=f"Export {DEFAULT_RELEASE.title} for phones and tablets.",
    )
    backends = parser.add_subparsers(dest="backend", required=True, metavar="BACKEND")
    for name, backend in BACKENDS.items():
        sub = backends.add_parser(name, help=f"export a bundle for {backend.platforms}")
        _add_bundle_options(sub, backend, ExportConfig())
        _add_calibration_options(sub, ExportConfig())
        _add_build_options(sub, ExportConfig())
    _add_upload(backends.add_parser(_UPLOAD, help="put a bundle on the Hugging Face hub"))
    return parser


def _add_upload(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("bundle", type=Path, help="folder that an export printed")
    sub.add_argument(
        "--repo", required=True, metavar="OWNER/NAME", help="repository, made if there is none"
    )
    sub.add_argument(
        "--revision", help="branch that it is put on, made if there is none (default: main)"
    )
    sub.add_argument("--private", action="store_true", help="only you and your team may read it")
    sub.add_argument(
        "--accept-licence",
        action="store_true",
        help="say that you may pass the weights on under their licence, rather than be asked",
    )


def _add_bundle_options(
    sub: argparse.ArgumentParser, backend: Backend, default: ExportConfig
) -> None:
    """Options that decide what is written."""
    precisions, parts = backend.precisions, DEFAULT_RELEASE.parts
    calibrated = [name for name in precisions.recipes if name in CALIBRATED_RECIPES]
    sub.add_argument(
        "--checkpoint",
        help="folder or hub id (openbmb/MiniCPM-V-4_5); default: the pocket model, a small "
        "model that ships with this program",
    )
    sub.add_argument(
        "--adapter",
        action="append",
        default=[],
        dest="adapters",
        metavar="FOLDER[=WEIGHT]",
        help="merge an adapter (LoRA or DoRA, as PEFT saves it) into the checkpoint, WEIGHT times; "
        "may be repeated",
    )
    sub.add_argument(
        "--output", type=Path, default=default.output, help="folder that the bundle is put into"
    )
    sub.add_argument(
        "--quant",
        metavar=f"{{{','.join(precisions.recipes)}}}",
        default=default.quant,
        help="recipe: the precision of each part of the model, or a budget such as auto:4.25bpw or "
        "auto:3.2GB for bits that differ by matrix; "
        f"calibrated: {', '.join(calibrated)}; faster, less exact: {UNCALIBRATED_RECIPE} "
        "(default: %(default)s)",
    )
    sub.add_argument(
        "--override",
        action="append",
        default=[],
        metavar="PART=PRECISION",
        help=f"store one part ({', '.join(parts)}) in another precision "
        f"({', '.join(precisions.named)}); may be repeated",
    )
    sub.add_argument(
        "--context-length",
        type=int,
        default=default.context_length,
        help="tokens that the key/value cache holds: the longest conversation",
    )
    sub.add_argument(
        "--prefill-length",
        type=int,
        default=default.prefill_length,
        help="tokens of a prompt that are processed together",
    )
    sub.add_argument("--kv-cache", choices=backend.kv_caches, help=_kv_cache_help(backend))


def _add_calibration_options(sub: argparse.ArgumentParser, default: ExportConfig) -> None:
    """Options that decide how the decoder's integers are chosen, and what is folded into weights
    before."""
    sub.add_argument(
        "--calibration",
        metavar="FILE",
        help="choose the decoder's integers with their effect on these chats and texts in view (a "
        f'JSON file, or "{SHIPPED_EXAMPLES}" for those that ship, which '
        f"{CALIBRATED_RECIPES[0]} takes anyway); needs torch",
    )
    sub.add_argument(
        "--calibration-tokens",
        type=int,
        metavar="N",
        help="tokens of texts that are read, at most; chats are read besides",
    )
    sub.add_argument(
        "--gradients",
        action="store_true",
        help="choose integers also by gradients of the model's answers, which keeps more of the "
        "model for several times the computation",
    )
    sub.add_argument(
        "--distill",
        type=int,
        default=default.distill,
        metavar="N",
        help="end a calibration with N steps that tune tables and scales to the model's answers; a "
        "large model wants a GPU for it",
    )
    sub.add_argument(
        "--rotate",
        action="store_true",
        help="rotate the residual stream, which spreads outliers over all channels; a calibration "
        "does so too",
    )
    sub.add_argument(
        "--fit-half",
        type=int,
        metavar="N",
        help="divide the decoder's residual stream by N, a power of two, and leave out key biases "
        "of the vision tower: the same model, with values that half precision holds (see `python "
        "-m validation audit`)",
    )
    sub.add_argument(
        "--device",
        default=default.device,
        help="where a calibration computes: cpu, cuda or mps (default: %(default)s)",
    )


def _add_build_options(sub: argparse.ArgumentParser, default: ExportConfig) -> None:
    """Options that decide how it is built."""
    sub.add_argument(
        "--jobs",
        type=int,
        help="processes; default: one per core, at most four, and one for a small model",
    )
    sub.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="build the packages on a Dask cluster that shares this file system (tcp://…)",
    )
    sub.add_argument(
        "--cache",
        type=Path,
        default=default.cache,
        help="folder for finished packages, with which a stopped export continues; best on the "
        "same disk as --output (default: %(default)s)",
    )
    sub.add_argument(
        "--cache-gb", type=float, default=default.cache_gb, help="trim the cache to this size"
    )
    sub.add_argument("--no-cache", action="store_true", help="neither read nor write the cache")
    sub.add_argument("--overwrite", action="store_true", help="replace an existing bundle")
    sub.add_argument("--plan", action="store_true", help="only print what would be written")
    sub.add_argument("--quiet", action="store_true", help="print only the bundle's path")


def _kv_cache_help(backend: Backend) -> str:
    meanings = "; ".join(f"{name}: {meaning}" for name, meaning in backend.kv_caches.items())
    return f"{meanings} (default: {backend.default_kv_cache})"


def _overrides(given: Sequence[str]) -> dict[str, str]:
    pairs = [item.partition("=") for item in given]
    if wrong := [item for item, (_, equals, _) in zip(given, pairs, strict=True) if not equals]:
        raise InputError(f"--override {wrong[0]} is not PART=PRECISION, such as lm_head=int8.")
    return {part: precision for part, _, precision in pairs}
