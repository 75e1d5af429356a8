"""release.json: what a checkpoint made here says of itself."""

import json

import pytest

from export.checkpoint.locate import DEFAULT_CHECKPOINT
from export.releases import DEFAULT_RELEASE
from export.releases.release import RELEASE_NAME, load_facts
from mobile_runtime.errors import InputError

PUBLISHED = DEFAULT_RELEASE.facts


def test_a_checkpoint_without_the_file_is_the_published_one(tmp_path):
    assert load_facts(tmp_path, DEFAULT_RELEASE) == PUBLISHED
    assert "MiniCPM Model License" in PUBLISHED.license


def test_what_is_written_is_read(tmp_path):
    (tmp_path / RELEASE_NAME).write_text(json.dumps(PUBLISHED.as_json()))
    assert load_facts(tmp_path, DEFAULT_RELEASE) == PUBLISHED


def test_the_pocket_model_is_free_and_decodes_greedily():
    release = load_facts(DEFAULT_CHECKPOINT, DEFAULT_RELEASE)
    assert (release.name, release.license) == ("minicpmv-pocket", "Apache-2.0")
    assert release.generation.answer.temperature == 0
    assert release.generation.answer.repetition_penalty == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda values: values.pop("license"),
        lambda values: values.update(name="../up"),
        lambda values: values.update(name=""),
        lambda values: values["generation"].pop("answer"),
        lambda values: values["generation"]["thinking"].update(top_k="many"),
        lambda values: values.update(generation=3),
    ],
)
def test_a_broken_file_is_one_sentence(change, tmp_path):
    values = PUBLISHED.as_json()
    change(values)
    (tmp_path / RELEASE_NAME).write_text(json.dumps(values))
    with pytest.raises(InputError, match=r"release\.json is not a release file"):
        load_facts(tmp_path, DEFAULT_RELEASE)
