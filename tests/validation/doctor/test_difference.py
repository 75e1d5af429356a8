"""Differences of packages and bundles: what a reviewer has to see, and nothing else."""

import json

import numpy as np
import pytest

pytest.importorskip("coremltools")

from coremltools.converters.mil import Builder as mb

from tests.validation.doctor.cases import main as function
from tests.validation.doctor.cases import relu
from tests.validation.doctor.packages import given, half, write
from tests.validation.doctor.weight_cases import palettized, table
from validation.cli import main
from validation.doctor.difference import compare
from validation.parity.metrics import psnr


@pytest.fixture
def compared(tmp_path):
    """compared(old, new) -> the difference of two packages."""

    def run(old, new):
        paths = [
            write(tmp_path / name / "m.mlpackage", **options)
            for name, options in (("old", old), ("new", new))
        ]
        return compare(*paths)

    return run


def layered(weight, before=None, eps=1.0):
    """A convolution, after an operation `before` if there is one, then an addition of `eps`."""

    def body(x):
        x = x if before is None else before(x)
        values = mb.const(val=weight, name="kernel") if isinstance(weight, np.ndarray) else weight()
        y = mb.conv(x=x, weight=values, pad_type="valid", name="layer")
        return mb.add(x=y, y=np.float16(eps), name="shifted")

    return function(body, (1, 128, 1, 32))


KERNEL = half(256, 128, 1, 1)


def test_a_package_is_equal_to_itself_under_another_name(tmp_path):
    options = layered(KERNEL)
    old = write(tmp_path / "old.mlpackage", **options)
    new = write(tmp_path / "new.mlpackage", **options)
    difference = compare(old, new)
    assert not difference.differs and difference.equal_weights == 1


def test_weights_differ_by_decibels(compared):
    noise = half(*KERNEL.shape) / np.float16(100)
    difference = compared(layered(KERNEL), layered(KERNEL + noise))
    expected = psnr(KERNEL + noise, KERNEL.astype(np.float64))
    (change,) = difference.changes
    assert (change.kind, change.what, change.name) == ("changed", "weight", "m.mlpackage: kernel")
    assert change.after == f"256 × 128 × 1 × 1 float16, {expected:.1f} dB"
    assert difference.hunks == {}


def test_a_weight_of_another_form_is_compared_by_its_numbers(compared):
    """A table of ones expands to ones."""
    ones = np.ones((256, 128, 1, 1), np.float16)

    def stored():
        indices = table((256, 128))
        indices.op.name = "kernel"
        return indices

    (change,) = compared(layered(ones), layered(stored)).changes
    assert change.after == "256 × 128 × 1 × 1 palettized to 4 bits, the same numbers"


def test_a_renamed_weight_is_equal_and_another_shape_is_said(compared):
    def renamed():
        return mb.const(val=KERNEL, name="other")

    assert not compared(layered(KERNEL), layered(renamed)).differs


def test_weights_that_are_in_one_package_only(compared):
    plain = function(relu, (1, 128, 1, 32))
    kinds = {c.kind for c in compared(plain, layered(KERNEL)).changes if c.what == "weight"}
    assert kinds == {"added"}


def test_one_more_operation_is_one_line_though_others_are_renumbered(compared):
    def twice(x):
        return mb.relu(x=mb.relu(x=x))

    difference = compared(
        layered(KERNEL, lambda x: mb.relu(x=x)),
        layered(KERNEL, twice),
    )
    ((place, hunks),) = difference.hunks.items()
    assert place == "m.mlpackage: main" and difference.changes == ()
    (hunk,) = [hunk for hunk in hunks if not hunk.rewired]
    assert hunk.removed == () and len(hunk.added) == 1 and hunk.added[0].startswith("relu ")


def test_a_constant_of_an_operation_is_seen(compared):
    (hunks,) = compared(layered(KERNEL), layered(KERNEL, eps=2.0)).hunks.values()
    assert "y 1." in hunks[0].removed[0] and "y 2." in hunks[0].added[0]


def test_inputs_that_change_places_are_seen(compared):
    pair = {"x": given(1, 4), "y": given(1, 4)}
    old = {"functions": {"main": (pair, lambda x, y: mb.sub(x=x, y=y))}}
    pair = {"x": given(1, 4), "y": given(1, 4)}
    new = {"functions": {"main": (pair, lambda x, y: mb.sub(x=y, y=x))}}
    (hunks,) = compared(old, new).hunks.values()
    assert [hunk.rewired for hunk in hunks] == ["x: x → y", "y: y → x"]


def test_interface_functions_and_metadata(compared):
    old = function(relu, (1, 4), metadata={"version": "9.0"})
    new = {
        "functions": {name: ({"x": given(1, 8)}, relu) for name in ("main", "second")},
        "metadata": {"version": "9.1"},
    }
    found = {(c.kind, c.what, c.name) for c in compared(old, new).changes}
    assert ("changed", "interface", "m.mlpackage: main: input x") in found
    assert ("added", "function", "m.mlpackage: second") in found
    key = "m.mlpackage: com.github.apple.coremltools.version"
    assert ("changed", "metadata", key) in found


def test_bundles_of_two_recipes(make_bundle, tmp_path, capsys):
    old, new = make_bundle(), make_bundle(quant="none")
    file = tmp_path / "difference.json"
    assert main(["diff", str(old), str(new), "--json", str(file), "--exit-code"]) == 1
    found = json.loads(file.read_text())
    names = {(change["what"], change["name"]) for change in found["changes"]}
    assert ("manifest", "recipe.name") in names
    assert ("file", "embed_tokens_scales.bin") in names
    weight = "weight_llm_model_layers_0_self_attn_q_proj_weight"
    assert ("weight", f"decoder.mlpackage: {weight}") in names
    assert found["hunks"] == {}  # the operations are the same
    assert main(["diff", str(old), str(old), "--exit-code"]) == 0
    assert "no difference" in capsys.readouterr().out


def test_a_bundle_and_a_package_are_refused(make_bundle, tmp_path, capsys):
    package = write(tmp_path / "m.mlpackage", **palettized())
    assert main(["diff", str(make_bundle()), str(package)]) == 2
    assert "give two packages or two bundles" in capsys.readouterr().err


def test_bundles_for_another_runtime_are_compared_by_their_files(
    make_bundle, make_onnx_bundle, capsys
):
    bundle = str(make_onnx_bundle())
    assert main(["diff", bundle, bundle, "--exit-code"]) == 0
    assert "no difference; graphs were compared by their files" in capsys.readouterr().out
    found = compare(make_bundle(), make_onnx_bundle())
    assert {"format", "decoding.kv_cache"} <= {c.name for c in found.changes}
    assert any(c.what == "file" and c.name.endswith(".onnx") for c in found.changes)


def test_what_is_not_there_is_said_to_be_missing(tmp_path, capsys):
    missing = tmp_path / "gone.mlpackage"
    assert main(["diff", str(tmp_path), str(missing)]) == 2
    assert main(["lint", str(missing)]) == 2
    for line in capsys.readouterr().err.splitlines():
        assert line.startswith(f"error: {missing} does not exist; give ")
