"""What a bundle is blamed for: a manifest that does not fit its graphs and tables, nothing else."""

from dataclasses import replace

import pytest

from mobile_runtime.bundle import read_manifest
from mobile_runtime.errors import InputError
from mobile_runtime.model.contradictions import contradictions_named
from mobile_runtime.model.manifest_checks import check_tables


@pytest.mark.parametrize("error", [KeyError("logits"), IndexError("row 9"), ValueError("(2,)")])
def test_a_misfit_is_a_sentence_with_its_cause(error):
    with (
        pytest.raises(InputError, match="manifest and graphs do not fit") as caught,
        contradictions_named(),
    ):
        raise error
    assert type(error).__name__ in str(caught.value)


OTHERS = (
    *(InputError("what it says."), OSError(5, "I/O"), MemoryError(), KeyboardInterrupt()),
    *(AttributeError("no run"), AssertionError(), RuntimeError("a bug"), TypeError("no array")),
)


@pytest.mark.parametrize("error", OTHERS, ids=lambda error: type(error).__name__)
def test_no_other_error_is_called_a_fault_of_the_bundle(error):
    with pytest.raises(type(error)) as caught, contradictions_named():
        raise error
    assert caught.value is error


@pytest.mark.parametrize(
    ("part", "name", "file"),
    [
        ("architecture", "vision_hidden_size", "position_embeddings"),
        ("architecture", "vocab_size", "embed_tokens"),
        ("architecture", "hidden_size", "embed_tokens"),
        ("architecture", "resampler_heads", "resampler_key_query"),
        ("preprocessing", "num_queries", "resampler_key_query"),
        ("preprocessing", "position_buckets", "position_embeddings"),
    ],
)
def test_a_table_of_another_size_than_the_models_is_named(make_bundle, part, name, file):
    manifest = read_manifest(make_bundle())
    check_tables(manifest)
    sizes = getattr(manifest, part)
    changed = replace(manifest, **{part: replace(sizes, **{name: getattr(sizes, name) + 1})})
    with pytest.raises(InputError, match=rf"^{file}\w*\.bin has the shape .* its model needs"):
        check_tables(changed)
