"""Weights by form, against what coremltools compressed, and shapes in words."""

import shutil

import pytest

from mobile_runtime import InputError, Package, describe_package
from mobile_runtime.cli import main
from mobile_runtime.mlprogram.census import WeightForm
from mobile_runtime.mlprogram.description import Feature, Range

ct = pytest.importorskip("coremltools")
torch = pytest.importorskip("torch")
import coremltools.optimize.coreml as cto  # noqa: E402

ROWS, COLUMNS = 64, 96
WEIGHT_FILE = "Data/com.apple.CoreML/weights/weight.bin"
BLOB_BYTES = 64  # of the header, of each blob's metadata, and what its data is aligned to


@pytest.fixture(scope="module")
def package(convert):
    return convert(
        torch.nn.Linear(COLUMNS, ROWS, bias=False),
        [(1, COLUMNS)],
        [ct.TensorType("x", shape=(1, COLUMNS))],
        minimum_deployment_target=ct.target.iOS18,
    )


def whole(config):
    return cto.OptimizationConfig(global_config=config)


PALETTES = whole(cto.OpPalettizerConfig(nbits=4, mode="uniform"))
INT8 = whole(cto.OpLinearQuantizerConfig())
INT4 = whole(cto.OpLinearQuantizerConfig(dtype="int4", granularity="per_block", block_size=32))
PRUNED = whole(cto.OpMagnitudePrunerConfig(target_sparsity=0.75))
WEIGHTS = ROWS * COLUMNS


def palettize_pruned(model, config):
    pruned = cto.prune_weights(model, PRUNED, joint_compression=False)
    return cto.palettize_weights(pruned, config, joint_compression=True)


# Form -> what coremltools compresses with, and the bytes that this must take.
COMPRESSED = {
    "palettized to 4 bits": (cto.palettize_weights, PALETTES, WEIGHTS // 2 + 16 * 4),
    "quantized to int8": (cto.linear_quantize_weights, INT8, WEIGHTS + ROWS * 4),
    "quantized to int4": (cto.linear_quantize_weights, INT4, WEIGHTS // 2 + WEIGHTS // 32 * 4),
    "sparse float32": (cto.prune_weights, PRUNED, WEIGHTS // 4 * 4 + WEIGHTS // 8),
    "sparse, palettized to 4 bits": (palettize_pruned, PALETTES, WEIGHTS // 8 + WEIGHTS // 8 + 64),
}


@pytest.mark.parametrize("form", COMPRESSED)
def test_weights_are_counted_by_form(form, package, mlmodel, tmp_path):
    compress, config, nbytes = COMPRESSED[form]
    compressed = tmp_path / "compressed.mlpackage"
    compress(mlmodel(package), config).save(str(compressed))
    found, bias = describe_package(compressed).weights
    assert (found.form, found.values) == (form, WEIGHTS)
    assert found.bytes == pytest.approx(nbytes, abs=8)
    assert bias == WeightForm("float32", ROWS, 4 * ROWS)
    stored = (compressed / WEIGHT_FILE).stat().st_size
    assert found.bytes + bias.bytes <= stored <= found.bytes + bias.bytes + 10 * BLOB_BYTES


def test_weights_that_functions_share_are_counted_once(package, tmp_path):
    descriptor = ct.utils.MultiFunctionDescriptor()
    descriptor.add_function(str(package), "main", "one")
    descriptor.add_function(str(package), "main", "two")
    descriptor.default_function_name = "one"
    ct.utils.save_multifunction(descriptor, str(tmp_path / "both.mlpackage"))
    described = describe_package(tmp_path / "both.mlpackage")
    assert set(described.operations) == {"one", "two"}
    values = WEIGHTS + ROWS  # and a bias of zeros
    assert described.weights == (WeightForm("float32", values, 4 * values),)


@pytest.mark.parametrize(
    ("feature", "words"),
    [
        (Feature("x", "array", shape=(1, 3)), "1 × 3"),
        (Feature("x", "array", ranges=(Range(1, 1), Range(2, 5), Range(2, None))), "1 × 2…5 × 2…"),
        (Feature("x", "array", shapes=((1, 2), (3, 4))), "1 × 2 or 3 × 4"),
        (Feature("x", "array"), ""),
    ],
)
def test_shapes_in_words(feature, words):
    assert feature.allowed == words


def test_an_axis_without_an_upper_bound_has_any_size():
    feature = Feature("x", "array", ranges=(Range(2, None),))
    assert [feature.allows((n,)) for n in (1, 2, 10**9)] == [False, True, True]
    assert not feature.allows((2, 2))


def test_a_feature_of_any_shape_allows_all():
    assert Feature("x", "array").allows((4, 5, 6))


def _cut(data):
    return data[:-1000]


def _pointer(data):
    return b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 24768\n".ljust(130)


def _other_size(data):
    first = BLOB_BYTES + 8  # the size of the first weight, behind a mark and its type
    return data[:first] + (8).to_bytes(8, "little") + data[first + 8 :]


def _no_mark(data):
    return data[:BLOB_BYTES] + bytes(4) + data[BLOB_BYTES + 4 :]


DAMAGES = {
    "cut": (_cut, "ends within the weight at byte 64"),
    "a pointer": (_pointer, "has storage version"),
    "other size": (_other_size, "holds 8 bytes of type 2 at byte 64, but the program expects"),
    "no mark": (_no_mark, "has no weight at byte 64"),
    "missing": (None, "is missing; copy or export the package again."),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_package_whose_weights_are_not_whole_is_described_and_does_not_run(
    damage, package, tmp_path, capsys
):
    change, sentence = DAMAGES[damage]
    copy = tmp_path / "copy.mlpackage"
    shutil.copytree(package, copy)
    assert describe_package(copy).runs
    data = (copy / WEIGHT_FILE).read_bytes()
    (copy / WEIGHT_FILE).unlink()
    if change is not None:
        (copy / WEIGHT_FILE).write_bytes(change(data))
    described = describe_package(copy)
    assert sentence in described.damage and not described.runs
    assert described.weights[0].values == WEIGHTS + ROWS  # the bias
    assert main(["describe", str(copy)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert sentence in printed and "the weight files hold" not in printed
    with pytest.raises(InputError) as caught:
        Package(copy)
    assert str(caught.value) == described.damage


def test_whole_weights_are_told(package, capsys):
    assert describe_package(package).damage == ""
    assert main(["describe", str(package)]) == 0
    assert "the weight files hold all of these weights" in capsys.readouterr().out
