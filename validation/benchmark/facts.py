"""Which model a result is of: what suites and harnesses name of a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mobile_runtime.bundle import Manifest, bundle_digest
from mobile_runtime.engines import EngineOptions


def bundle_facts(bundle: Path, manifest: Manifest, options: EngineOptions) -> dict[str, Any]:
    """The digest of a bundle, its checkpoint and recipe, and how it was run."""
    return {
        "bundle_sha256": bundle_digest(bundle),
        "checkpoint": manifest.source.name,
        "checkpoint_sha256": manifest.source.sha256,
        "recipe": manifest.recipe.get("name"),
        "format": manifest.format,
        "engine": options.name,
        "precision": options.precision,
    }
