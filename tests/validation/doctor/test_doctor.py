"""The doctor as a whole: our bundles, converted modules, waivers, devices, reports, exit codes."""

import json

import coremltools as ct
import numpy as np
import pytest

from mobile_runtime.mlprogram.blob import BlobFile
from mobile_runtime.mlprogram.schema import Model
from tests.validation.doctor.cases import NUMBERS, OPERATIONS, SHAPES
from tests.validation.doctor.packages import write
from tests.validation.doctor.weight_cases import PACKAGES, WEIGHTS, beside
from validation.cli import main
from validation.doctor.examine import examine
from validation.doctor.waivers import OWN
from validation.planner.devices import find_devices


@pytest.fixture
def package(tmp_path):
    """package(case) -> a package that breaks the rule of the case."""

    def make(case, name="made"):
        return write(tmp_path / f"{name}.mlpackage", **case[0])

    return make


def rules_of(diagnosis):
    return {finding.rule.id for finding in diagnosis.findings if not finding.waived}


@pytest.mark.parametrize("options", [{}, {"quant": "none"}, {"kv_cache": "io"}])
def test_our_bundles_are_clean_and_what_is_waived_has_a_reason(make_bundle, options):
    diagnosis = examine(make_bundle(**options))
    assert rules_of(diagnosis) == set()
    assert all(waiver.reason for waiver in OWN)
    assert sum(row.fine for row in diagnosis.counts) > 100
    assert all(row.risky == row.leaves == 0 for row in diagnosis.counts)


def test_a_package_of_a_bundle_has_no_waivers(make_bundle):
    found = rules_of(examine(make_bundle() / "decoder.mlpackage"))
    assert "K11" in found


def test_exit_codes(package, capsys):
    good, bad = package(SHAPES["S01"], "good"), package(NUMBERS["N05"], "bad")
    assert main(["lint", str(good)]) == 0
    assert "warning S01 (leaves the Neural Engine): a tensor of rank 5" in capsys.readouterr().out
    assert main(["lint", str(bad)]) == 1
    assert "error N05" in capsys.readouterr().out
    assert main(["lint", str(good.parent / "none.mlpackage")]) == 2
    assert main(["lint", str(good), "--device", "ipad"]) == 2
    assert "known are iphone-12gb" in capsys.readouterr().err


def test_bundle_for_another_runtime_is_refused_by_its_name(make_onnx_bundle, capsys):
    assert main(["lint", str(make_onnx_bundle())]) == 2
    assert "a bundle for onnx" in capsys.readouterr().err


def test_counts_say_what_becomes_of_each_operation(package):
    (row,) = examine(package(OPERATIONS["O08"])).counts
    assert (row.fine, row.risky, row.leaves) == (0, 0, 2)  # expand_dims and topk


def test_waivers_of_a_file(package, tmp_path, capsys):
    bad = package(NUMBERS["N05"])
    file = tmp_path / "waivers.json"
    accepted = {"rule": "N05", "where": "made.mlpackage: main: *", "reason": "it runs on the CPU"}
    file.write_text(json.dumps([accepted, accepted | {"rule": "N01"}]))
    assert main(["lint", str(bad), "--waivers", str(file)]) == 0
    assert "waived N05 at 1 place: it runs on the CPU" in capsys.readouterr().out
    file.write_text(json.dumps([accepted | {"where": "other.mlpackage: *"}]))
    assert main(["lint", str(bad), "--waivers", str(file)]) == 1
    for wrong in ([accepted | {"reason": " "}], {}, [{"rule": "N05"}]):
        file.write_text(json.dumps(wrong))
        assert main(["lint", str(bad), "--waivers", str(file)]) == 2


def test_limits_are_those_of_the_device(package):
    large = package(PACKAGES["P01"])
    mac, phone = find_devices(["mac-m4"])[0], find_devices(["iphone-12gb"])[0]
    assert "P01" not in rules_of(examine(large, mac))
    assert "P01" in rules_of(examine(large, phone))


def test_reports_name_the_rule_and_the_place(package, tmp_path):
    files = {name: tmp_path / f"{name}.json" for name in ("json", "sarif")}
    made = package(NUMBERS["N05"])
    main(["lint", str(made), *(w for n, f in files.items() for w in (f"--{n}", str(f)))])
    found = json.loads(files["json"].read_text())
    assert found["failed"] is True
    (error,) = [f for f in found["findings"] if f["severity"] == "error"]
    assert (error["rule"], error["operation"], error["type"]) == ("N05", "bad", "add")
    (run,) = json.loads(files["sarif"].read_text())["runs"]
    for result in run["results"]:
        assert run["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == result["ruleId"]
        assert result["level"] in ("error", "warning", "note") and result["message"]["text"]
    places = [r["locations"][0]["logicalLocations"][0] for r in run["results"]]
    assert {"fullyQualifiedName": "made.mlpackage: main: bad"} in places


def test_a_report_that_cannot_be_written_is_refused_first(package, tmp_path):
    place = tmp_path / "folder"
    place.mkdir()
    assert main(["lint", str(package(NUMBERS["N05"])), "--json", str(place)]) == 2


def test_models_of_a_pipeline_are_examined(package):
    path = package(OPERATIONS["O01"])
    file = path / "Data/com.apple.CoreML/model.mlmodel"
    inner, outer = Model(), Model()
    inner.ParseFromString(file.read_bytes())
    outer.specificationVersion = inner.specificationVersion
    outer.pipeline.names.append("first")
    outer.pipeline.models.append(inner)
    file.write_bytes(outer.SerializeToString())
    (finding,) = [f for f in examine(path).findings if f.rule.id == "O01"]
    assert finding.place == "made.mlpackage: first: main: bad"


def test_weights_are_not_read_unless_a_rule_needs_them(package, monkeypatch):
    read, plain = [], BlobFile.read

    def counted(self, offset, element, count):
        read.append(count)
        return plain(self, offset, element, count)

    path = write(package(WEIGHTS["W05"]).parent / "two.mlpackage", **beside(512))
    monkeypatch.setattr(BlobFile, "read", counted)
    assert "W09" in rules_of(examine(path))
    assert read == []  # two matrices of two sizes: nothing may be equal


class TestConverted:
    """Packages that coremltools converts from PyTorch."""

    torch = pytest.importorskip("torch")

    def convert(self, module, inputs, path, **options):
        traced = self.torch.jit.trace(module.eval(), tuple(inputs))
        made = ct.convert(
            traced,
            inputs=[ct.TensorType(shape=tuple(i.shape)) for i in inputs],
            minimum_deployment_target=ct.target.iOS18,
            skip_model_load=True,
            **options,
        )
        made.save(str(path))
        return examine(path)

    def test_plain_convolutions_have_no_finding(self, tmp_path):
        nn = self.torch.nn
        module = nn.Sequential(nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.ReLU())
        diagnosis = self.convert(module, [self.torch.zeros(1, 3, 34, 34)], tmp_path / "a.mlpackage")
        assert rules_of(diagnosis) == set()
        assert sum(row.fine for row in diagnosis.counts) > 0

    def test_a_program_in_float32_leaves(self, tmp_path):
        diagnosis = self.convert(
            self.torch.nn.ReLU(),
            [self.torch.zeros(1, 8, 1, 32)],
            tmp_path / "a.mlpackage",
            compute_precision=ct.precision.FLOAT32,
        )
        assert rules_of(diagnosis) == {"N01"}

    @pytest.mark.parametrize("registered", [True, False])
    def test_cache_writes_of_a_module(self, tmp_path, registered):
        """A buffer that is declared as a state is written; one that is not stays as it was."""
        torch = self.torch

        class Cache(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.register_buffer("cache", torch.zeros(2, 4, 32, 32, dtype=torch.float16))

            def forward(self, rows):
                if registered:
                    self.cache[:, :, 3:4] = rows
                return self.cache + rows.sum()

        kind = ct.TensorType(shape=(2, 4, 32, 32), dtype=np.float16)
        diagnosis = self.convert(
            Cache(),
            [torch.zeros(2, 4, 1, 32)],
            tmp_path / "a.mlpackage",
            states=[ct.StateType(wrapped_type=kind, name="cache")],
        )
        lost = {"K05", "K06"} & rules_of(diagnosis)
        assert bool(lost) is not registered

    def test_an_rms_norm_has_known_damage(self, tmp_path):
        module = self.torch.nn.RMSNorm(64, eps=1e-5)
        diagnosis = self.convert(module, [self.torch.ones(1, 4, 64)], tmp_path / "a.mlpackage")
        assert "N07" in rules_of(diagnosis)
