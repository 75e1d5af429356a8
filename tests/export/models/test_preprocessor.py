"""preprocessor_config.json: published values, defaults, refusals."""

import json

import pytest

from export.models.preprocessor import load_preprocessing
from mobile_runtime.bundle import Preprocessing
from mobile_runtime.errors import InputError

HALF = (0.5, 0.5, 0.5)
PUBLISHED = Preprocessing(448, 14, 9, True, True, HALF, HALF, 64, 70, 1088)


@pytest.fixture
def load(tmp_path, published_model):
    """load({key: value}) -> the constants of a file with these keys."""

    def run(values):
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(values))
        return load_preprocessing(tmp_path, published_model)

    return run


def test_published_file(shared, published_model):
    assert load_preprocessing(shared / "upstream", published_model) == PUBLISHED


def test_absent_file_means_the_published_defaults(published_preprocessing):
    assert published_preprocessing == PUBLISHED


def test_empty_file_means_the_published_defaults(load):
    assert load({}) == PUBLISHED


def test_values_of_the_file_are_used(load):
    given = load(
        {
            "scale_resolution": 224,
            "max_slice_nums": 4,
            "use_image_id": False,
            "norm_mean": [0.1, 0.2, 0.3],
            "norm_std": [1, 2, 3],
        }
    )
    assert (given.scale_resolution, given.max_slice_nums, given.use_image_id) == (224, 4, False)
    assert given.norm_mean == (0.1, 0.2, 0.3)
    assert given.norm_std == (1.0, 2.0, 3.0)
    assert given.max_patches < PUBLISHED.max_patches // 3


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("patch_size", 16),
        ("image_feature_size", 96),
        ("im_start", "<img>"),
        ("im_end", "</img>"),
        ("slice_start", "<s>"),
        ("slice_end", "</s>"),
        ("im_id_start", "<id>"),
        ("im_id_end", "</id>"),
        ("unk", "<pad>"),
        ("slice_mode", False),
        ("max_slice_nums", 0),
        ("max_slice_nums", 9.0),
        ("scale_resolution", True),
        ("scale_resolution", None),
        ("norm_mean", [0.5, 0.5]),
        ("norm_std", 0.5),
    ],
)
def test_unsupported_value_is_refused(load, key, value):
    with pytest.raises(InputError, match=r"preprocessor_config\.json") as caught:
        load({key: value})
    assert key.split("_")[0] in str(caught.value) or "query" in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("norm_mean", ["a", "b", "c"]),
        ("norm_mean", [None, 0.5, 0.5]),
        ("norm_std", [0.5, 0, 0.5]),
    ],
)
def test_norm_values_that_cannot_be_used_are_refused(load, key, value):
    with pytest.raises(InputError, match=key):
        load({key: value})


def test_damaged_file_is_named(tmp_path, published_model):
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(InputError, match=r"preprocessor_config\.json is not valid JSON"):
        load_preprocessing(tmp_path, published_model)
