"""Do two versions of the exporter write the same bytes?

    python -m tests.same_bytes REVISION [--except-manifest]

Exports the pocket model and the golden checkpoint for every target, precision and cache with the
working tree and with REVISION of the repository, and compares file by file. For changes that must
not change a bundle: run it before they are committed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.paths import ROOT

GOLDEN_TOKENIZER = ROOT / "../shared/upstream"
EXPORTS: tuple[tuple[str, ...], ...] = (
    *(
        ("coreml", "--quant", quant, "--kv-cache", cache)
        for quant in ("none", "int8", "int4-fast")
        for cache in ("state", "io")
    ),
    *(
        (backend, "--quant", quant)
        for backend in ("onnx", "onnx-portable")
        for quant in ("none", "int8", "int4-fast")
    ),
    ("coreml", "--override", "vision_encoder=int8", "--override", "resampler=int6"),
    ("onnx", "--override", "decoder=int4a", "--override", "vision_encoder=int8"),
    ("onnx", "--override", "decoder=int4b128", "--kv-cache", "float32"),
)


def main() -> int:
    """0 when all bytes agree, 1 otherwise."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("revision", help="commit, branch or tag to compare with")
    parser.add_argument("--except-manifest", action="store_true", help="leave manifest.json out")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        other = _checkout(options.revision, folder / "revision")
        checkpoints = {"pocket": None, "golden": _golden_checkpoint(folder / "golden")}
        differing = []
        for name, checkpoint in checkpoints.items():
            for arguments in EXPORTS:
                before, after = _export_both((other, ROOT), checkpoint, arguments, folder)
                if options.except_manifest:
                    before, after = ({**d, "manifest.json": ""} for d in (before, after))
                changed = sorted(n for n in before | after if before.get(n) != after.get(n))
                print(f"{name} {' '.join(arguments)}: {', '.join(changed) or 'same'}", flush=True)
                differing += changed
    return int(bool(differing))


def _checkout(revision: str, folder: Path) -> Path:
    """The files of `revision`, tests excluded: those of the working tree make the checkpoints."""
    folder.mkdir()
    archive = subprocess.run(
        ["git", "archive", revision], cwd=ROOT, check=True, stdout=subprocess.PIPE
    )
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, check=True)
    return folder


def _golden_checkpoint(folder: Path) -> Path:
    """The golden weights as a checkpoint folder."""
    from safetensors.numpy import save_file

    from tests.golden.synthetic import CONFIG, SyntheticWeights

    shutil.copytree(GOLDEN_TOKENIZER, folder)
    (folder / "model.safetensors.index.json").unlink()
    (folder / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    weights = SyntheticWeights()
    save_file({name: weights.read(name) for name in weights.names}, folder / "model.safetensors")
    return folder


def _export_both(
    roots: Sequence[Path], checkpoint: Path | None, arguments: Sequence[str], folder: Path
) -> Iterator[dict[str, str]]:
    outputs = [folder / "before", folder / "after"]
    with ThreadPoolExecutor(len(roots)) as pool:
        found = list(pool.map(lambda r, o: _export(r, o, checkpoint, arguments), roots, outputs))
    for output in outputs:
        shutil.rmtree(output)
    return iter(found)


def _export(
    root: Path, output: Path, checkpoint: Path | None, arguments: Sequence[str]
) -> dict[str, str]:
    """SHA-256 of every file of the bundle that `root`'s exporter writes."""
    given = ["--checkpoint", str(checkpoint)] if checkpoint else []
    fixed = ["--no-cache", "--quiet", "--jobs", "1", "--context-length", "256"]
    command = [sys.executable, "-m", "export", *arguments, *given, *fixed, "--output", str(output)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed in {root}:\n{done.stderr}")
    (bundle,) = output.iterdir()
    files = (path for path in sorted(bundle.rglob("*")) if path.is_file())
    return {
        path.relative_to(bundle).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


if __name__ == "__main__":
    sys.exit(main())
