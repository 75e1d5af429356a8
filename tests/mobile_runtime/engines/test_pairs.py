"""A package run in both precisions at once gives what two plain runs give."""

import numpy as np
import pytest

from mobile_runtime.engines.mil import MilEngine
from mobile_runtime.engines.mil.number_kernels import measure_rounding
from mobile_runtime.engines.mil.pairs import PairEngine, Rounding
from mobile_runtime.model.static_decoder import StaticDecoder, StaticGraphs
from mobile_runtime.session import Session
from tests.validation.parity.planted import collected


def test_rounding_is_measured_as_numpy_casts():
    rng = np.random.default_rng(0)
    given = [0, -0.0, 70000, -65519, 65520, 1e-7, 6e-5, 3e-8, np.inf, -np.inf, np.nan]
    values = np.concatenate([rng.normal(size=500) * 1e3, given]).astype(np.float32)
    exact = values + rng.normal(size=values.size).astype(np.float32)
    with np.errstate(over="ignore"):
        rounded = values.astype(np.float16).astype(np.float32)
    found, got = np.zeros(10), values.copy()
    measure_rounding(got, exact, found)
    np.testing.assert_array_equal(got, rounded)
    both = np.isfinite(rounded) & np.isfinite(exact)
    size = np.abs(values[np.isfinite(values)])
    expected = Rounding(
        count=both.sum(),
        largest=70000.0,
        overflows=2,
        given=3,
        subnormals=((size > 0) & (size < 2.0**-14)).sum(),
        local=np.square(rounded[both].astype(np.float64) - values[both]).sum(),
        accumulated=np.square(rounded[both].astype(np.float64) - exact[both]).sum(),
        full_largest=np.abs(exact[np.isfinite(exact)]).max(),
        lost=2,
        zeros=2,
    )
    names = list(Rounding.__dataclass_fields__)
    for name, value in zip(names, found, strict=True):
        assert value == pytest.approx(getattr(expected, name)), name


@pytest.fixture(scope="module")
def block(make_bundle):
    """The decoder's package of half-precision weights, and inputs of one block of its prefill."""
    bundle = make_bundle(quant="none")
    session = Session.load(bundle)
    decoder = session.model.decoder
    assert isinstance(decoder, StaticDecoder)
    rows = np.random.default_rng(1).normal(size=(64, 256)).astype(np.float32)
    inputs = decoder.block_inputs(rows, 0, 64) | {"position": np.zeros(1, np.int32)}
    (graph,) = session.manifest.graphs_of("decoder")
    return bundle / graph.path, inputs


def test_every_operation_is_what_two_plain_runs_give(block):
    """The state is written in place by both sides, and both see it in a second block."""
    package, inputs = block
    found, observer = collected()
    pair = PairEngine(package, observer)
    engines = [MilEngine(package, precision=p) for p in ("fp16", "fp32")]
    states = [engine.new_state() for engine in (pair, *engines)]
    for position in (0, 64):
        found.clear()
        given = inputs | {"position": np.array([position], np.int32)}
        outputs = pair.run(given, function="prefill", state=states[0])
        measured = {name: one for name, one in found.items() if one is not None}
        assert len(measured) > 50
        half, full = (
            engine.run(given, function="prefill", state=state, keep=measured)
            for engine, state in zip(engines, states[1:], strict=True)
        )
        for name, one in measured.items():
            error = np.square(half[name].astype(np.float64) - full[name]).sum()
            assert one.accumulated == pytest.approx(error, rel=1e-6, abs=1e-20), name
            assert one.full_largest == np.abs(full[name]).max(), name
            assert one.count == half[name].size
        for name, value in outputs.items():
            np.testing.assert_array_equal(value, full[name])
    rows = pair.read_state(states[0], "key_value_cache")
    np.testing.assert_array_equal(rows, engines[1].read_state(states[2], "key_value_cache"))


def test_an_operation_alone_is_charged_with_its_own_rounding(block):
    """The local error is at most half a unit in the last place of the largest value."""
    found, observer = collected()
    PairEngine(block[0], observer).run(block[1], function="prefill")
    for name, one in found.items():
        if one is not None and one.local:
            assert (one.local / one.count) ** 0.5 <= one.largest * 2.0**-11, name


def test_graphs_of_a_bundle_are_opened_with_the_observer(make_bundle):
    from mobile_runtime.engines import EngineOptions

    bundle = make_bundle(quant="none")
    manifest = Session.load(bundle, verify=False).manifest
    options = EngineOptions("mil", observer=collected()[1])
    ((_, engine),) = StaticGraphs(bundle, manifest, options).decoder
    assert isinstance(engine, PairEngine)
