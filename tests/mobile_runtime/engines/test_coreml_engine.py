"""Core ML's own predict against the interpreter, on the same bundle. Needs a Mac."""

import platform

import numpy as np
import pytest

from mobile_runtime.engines import EngineOptions, open_engine
from mobile_runtime.errors import InputError
from mobile_runtime.session import Session
from validation.chats import default_chats
from validation.parity.metrics import psnr
from validation.parity.parity import prepare_named
from validation.parity.stages import FP16_FLOOR

UNITS = ("CPU_ONLY", "CPU_AND_GPU", "CPU_AND_NE")


@pytest.mark.macos
@pytest.mark.parametrize("kv_cache", ["state", "io"])
@pytest.mark.parametrize("units", UNITS)
def test_predict_agrees_with_the_interpreter(make_bundle, units, kv_cache):
    bundle = make_bundle("int4-fast", kv_cache, 320)
    device = Session.load(bundle, EngineOptions("coreml", compute_units=units))
    interpreter = Session.load(bundle, EngineOptions("mil", precision="fp32"))
    for named in default_chats():
        prompt = prepare_named(interpreter, named)
        for got, expected in zip(
            device.image_embeds(prompt), interpreter.image_embeds(prompt), strict=True
        ):
            assert psnr(got, expected) >= FP16_FLOOR
        got, expected = [device.prefill(prompt)], [interpreter.prefill(prompt)]
        for token in (5, 6, 7):
            got.append(device.decode(token))
            expected.append(interpreter.decode(token))
        assert psnr(np.stack(got), np.stack(expected)) >= FP16_FLOOR


@pytest.mark.skipif(platform.system() == "Darwin", reason="Core ML runs here")
def test_elsewhere_the_engine_says_what_to_use(make_bundle):
    package = make_bundle("int4-fast", "state", 320) / "decoder.mlpackage"
    with pytest.raises(InputError, match="needs macOS; use the engine mil"):
        open_engine(package, EngineOptions("coreml"))
