"""Plans: bytes are those of the bundle, speeds follow from published figures by hand."""

import importlib.util
import json
from dataclasses import replace

import pytest

from tests.paths import ROOT
from validation.cli import main
from validation.planner.devices import all_devices, find_devices
from validation.planner.estimate import cross_check, error_of, plan_device
from validation.planner.needs import RESERVE, Needs, needs_of
from validation.planner.report import in_words, rounded
from validation.planner.reported import Rates, Reported, all_reports, computing_rates, reading_rates

GB = 10**9
# 4-bit body and head of the full model: 3.476 and 0.468 GB by hand, at 4.0625 and 6.03 bits.
FULL = Needs(
    model="full",
    recipe="int4",
    decoder=3_476_000_000,
    head=468_000_000,
    vision=951_000_000,
    tables=633_000_000,
    files=5_529_000_000,
    largest_package=869_000_000,
    cache_per_token=2 * 36 * 8 * 128 * 2,
    context=2048,
    exported_context=2048,
    prefill_length=64,
    decoder_parameters=6_946_000_000,
    vision_parameters=412_000_000,
    view_positions=1088,
    view_tokens=64,
    decoder_packages=4,
    head_packages=1,
)


def device(name):
    return find_devices([name])[0]


def memory_table():
    path = ROOT / "ios_bridge" / "memory_table.py"
    spec = importlib.util.spec_from_file_location("memory_table", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("kv_cache", ["state", "io"])
def test_bytes_of_a_bundle_are_those_of_the_swift_package_s_table(make_bundle, kv_cache):
    bundle = make_bundle(kv_cache=kv_cache)
    table = memory_table()
    expected = table.needs(json.loads((bundle / "manifest.json").read_text(encoding="utf-8")))
    needs = needs_of(str(bundle), "int4", None)
    assert needs.files == expected["bundle"]
    for part in ("decoder", "head", "vision", "cache", "tables"):
        assert getattr(needs, part) == expected[part]
    assert table.RESERVE == RESERVE


def test_limits_of_devices_are_those_of_the_swift_package_s_table():
    limits = {limit for _, limit in memory_table()._DEVICES}
    ours = {d.entitled_app_gb.value * 1e9 for d in all_devices() if d.entitled_app_gb}
    assert ours == limits


@pytest.mark.parametrize("quant", ["none", "int4-fast"])
def test_a_checkpoint_needs_what_its_bundle_needs(make_bundle, random_checkpoint, quant):
    bundle = make_bundle(quant=quant)
    exported = needs_of(str(bundle), "none", None)
    planned = needs_of(str(random_checkpoint), quant, 512)
    for part in ("cache_per_token", "view_positions", "decoder_parameters", "calls_per_token"):
        assert getattr(planned, part) == getattr(exported, part)
    # A file of weights aligns each of them to 64 bytes, which a plan does not count.
    for part in ("decoder", "head", "vision", "tables"):
        assert 0.9 * getattr(exported, part) <= getattr(planned, part) <= getattr(exported, part)


def test_memory_by_hand():
    assert FULL.cache == 301_989_888  # 0.30 GB, as in the spec of the model
    assert FULL.text == 3_476_000_000 + 468_000_000 + 301_989_888 + RESERVE
    assert FULL.load_peak == FULL.text + 951_000_000 + 869_000_000
    assert FULL.disk == 5_529_000_000 + 3_476_000_000 + 468_000_000 + 951_000_000


@pytest.mark.parametrize(
    ("limit", "verdict"), [(6.61, "fit"), (6.60, "tight"), (4.79, "tight"), (4.78, "no")]
)
def test_verdicts_change_where_memory_ends(limit, verdict):
    phone = device("iphone-8gb")
    given = replace(phone, entitled_app_gb=replace(phone.entitled_app_gb, value=limit))
    assert plan_device(FULL, given, [1]).verdict == verdict


def test_what_nobody_published_is_unknown():
    plan = plan_device(FULL, device("mac-m4"), [1])
    assert plan.verdict == "unknown" and plan.first_token == {1: None}
    plan = plan_device(FULL, device("iphone-12gb"), [1])
    assert plan.ceiling is None and plan.decode is not None


def test_the_ceiling_is_bandwidth_by_bytes():
    """The published derivation without a cache: 4-bit body and head at 61.4 GB/s, 16 tokens/s."""
    plan = plan_device(replace(FULL, context=0), device("ipad-m4-16gb"), [1])
    assert plan.ceiling == pytest.approx(61.4 / 3.944)
    assert 12.6 < plan.ceiling < 16.2
    assert plan.decode.least < plan.decode.most < plan.ceiling


def test_the_first_token_of_ten_views_by_hand():
    """640 tokens of pictures and 32 of text fill 11 blocks of 64."""
    work = 2 * (10 * 1088 * 412e6 + 11 * 64 * 6946e6)
    assert FULL.prompt_work(10, 32) == pytest.approx(work)
    assert FULL.prompt_calls(10, 32) == 20 + 44 + 1
    rates = computing_rates(device("iphone-12gb"), all_reports())
    found = plan_device(FULL, device("iphone-12gb"), [10]).first_token[10]
    assert found.least == pytest.approx(work / rates.most / 1e12 + 65 * 0.09e-3)
    assert found.most == pytest.approx(work / rates.least / 1e12 + 65 * 0.23e-3)


def report(**options):
    facts = {"model": "m", "device": "mac-m3", "runtime": "r", "parameters_b": 1.0}
    facts |= {"read_gb": 2.0, "read_is_known": True, "decode": 10.0, "prefill": None}
    return Reported(**{**facts, "source": "s", "date": "d", **options})


def test_rates_come_from_reports_of_the_device_or_by_its_bandwidth():
    assert reading_rates(device("mac-m4"), [report()]) == Rates(
        *(2 * [pytest.approx(20 / 63 * 61.4)])
    )
    assert reading_rates(device("iphone-8gb"), [report()]) is None
    own = [report(device="iphone-8gb"), report(device="iphone-8gb", decode=20.0)]
    assert reading_rates(device("iphone-8gb"), own) == Rates(20.0, 40.0)
    unsure = [report(device="iphone-8gb", read_is_known=False)]
    assert reading_rates(device("iphone-8gb"), unsure) is None


def test_no_report_predicts_itself():
    alone = [c for c in cross_check() if c.reported.model == "OPT-1.3B, 4 bits"]
    (other,) = [r for r in all_reports() if r.model == "Llama-3.2-1B, 4 bits"]
    expected = other.reads_gbps / alone[0].reported.read_gb
    assert alone[0].decode == Rates(pytest.approx(expected), pytest.approx(expected))


def test_errors_are_stated():
    assert error_of(10, Rates(8, 12)) == 0
    assert error_of(10, Rates(12, 20)) == pytest.approx(0.2)
    assert error_of(10, Rates(2, 5)) == pytest.approx(-0.5)
    assert in_words(Rates(0.1234, 5325)) == "0.12–5300" and rounded(14.6) == "15"


def test_every_figure_has_a_source_and_a_date():
    for one in all_devices():
        for figure in (one.app_gb, one.entitled_app_gb, one.bandwidth_gbps, one.seconds_per_view):
            assert figure is None or (figure.source and figure.date)
    assert {r.device for r in all_reports()} <= {d.name for d in all_devices()}
    assert all(r.source and r.date for r in all_reports())


def test_command(make_bundle, tmp_path, capsys):
    file = tmp_path / "plan.json"
    words = ["--device", "ipad-m4-16gb", "--views", "2", "--context", "1024", "--json", str(file)]
    assert main(["plan", str(make_bundle()), *words]) == 0
    assert "the packages hold 512: export them again for this" in capsys.readouterr().out
    found = json.loads(file.read_text())
    assert found["needs"]["context"] == 1024
    (planned,) = found["devices"]
    assert planned["verdict"] == "fit" and list(planned["first_token"]) == ["2"]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--device", "ipad"], "no device is called 'ipad'"),
        (["--views", "11"], "--views is 11; give 1 to 10"),
        (["--context", "0"], "--context is 0; give 1 or more"),
        (["--quant", "int9"], "no recipe 'int9'"),
    ],
)
def test_bad_input_is_one_sentence(words, text, capsys):
    assert main(["plan", *words]) == 2
    assert text in capsys.readouterr().err


def test_a_bundle_for_another_runtime_is_refused(make_onnx_bundle, capsys):
    assert main(["plan", str(make_onnx_bundle())]) == 2
    assert "give a Core ML bundle, or the checkpoint" in capsys.readouterr().err
