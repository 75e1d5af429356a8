"""What tests of builds share."""

import pytest

from export.config import ExportConfig


@pytest.fixture
def config(random_checkpoint, tmp_path):
    """A small export with a cache of its own."""
    return ExportConfig(
        checkpoint=str(random_checkpoint),
        quant="int4-fast",
        output=tmp_path / "out",
        context_length=64,
        prefill_length=4,
        cache=tmp_path / "cache",
    )
