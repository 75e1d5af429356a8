"""What runs on Apple's systems alone: its calls are checked against declarations, and listed."""

import importlib.util
import re
import sys

import pytest

from tests.ios_bridge.conftest import ROOT, _toolchain

FOLDER = ROOT / "ios_bridge"
STUBS = FOLDER / "Tests/Stubs"
SOURCES = sorted((FOLDER / "Sources/MiniCPMV").rglob("*.swift"))
COMMANDS = sorted((FOLDER / "Sources/MiniCPMVCommand").glob("*.swift"))
# Stubs that others import come first.
MODULES = (
    *("CoreGraphics", "ImageIO", "CoreVideo", "VideoToolbox", "AVFoundation"),
    *("Accelerate", "os", "CoreML", "System", "BackgroundAssets"),
)
# Frameworks that Swift's own libraries stand for on Linux, or that are imported inside Darwin code.
OTHERS = {"Foundation", "Synchronization", "Dispatch", "CryptoKit", "Darwin"}


def _apis():
    spec = importlib.util.spec_from_file_location("apple_apis", FOLDER / "apple_apis.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def modules(tmp_path_factory):
    """Where the stubs' modules are put."""
    return tmp_path_factory.mktemp("stubs")


@pytest.fixture(scope="module")
def frontend(modules):
    """Run the compiler's front end, with the stubs' modules at hand once they are made."""
    found = _toolchain("check", text=True)
    if found.returncode:
        pytest.skip(found.stderr.strip())
    if b"Linux" not in _toolchain("run", "uname").stdout:
        pytest.skip("the stubs stand for frameworks that this system has: build the package")

    def run(*arguments):
        # Sources that need a newer SDK than this compiler's time take the stubs as one.
        base = ("run", "swift", "-frontend", "-swift-version", "6", "-D", "STUBS", "-I", modules)
        done = _toolchain(*base, *arguments, text=True, timeout=900)
        return done.returncode, done.stdout + done.stderr

    for name in MODULES:
        out = modules / f"{name}.swiftmodule"
        options = ("-emit-module", "-parse-as-library", "-module-name", name, "-o", out)
        code, text = run(*options, STUBS / f"{name}.swift")
        assert code == 0, text
    return run


def test_every_framework_has_a_stub():
    imported = set()
    for path in [*SOURCES, *COMMANDS]:
        imported |= set(re.findall(r"^\s*import (\w+)$", path.read_text("utf-8"), re.MULTILINE))
    assert imported - OTHERS - {"MiniCPMV"} == set(MODULES)
    assert {path.stem for path in STUBS.glob("*.swift")} == set(MODULES)


def test_the_whole_package_passes_the_type_checker(frontend, modules):
    # Down to the intermediate language, where data races are found.
    out = modules / "MiniCPMV.swiftmodule"
    options = ("-warnings-as-errors", "-parse-as-library", "-module-name", "MiniCPMV")
    code, text = frontend(
        "-emit-sil", "-o", modules / "sil", "-emit-module-path", out, *options, *SOURCES
    )
    assert code == 0, text
    code, text = frontend(
        "-typecheck", "-warnings-as-errors", "-module-name", "MiniCPMVCommand", *COMMANDS
    )
    assert code == 0, text


def test_a_misspelled_call_does_not_pass(frontend, tmp_path):
    right = (FOLDER / "Sources/MiniCPMV/Apple/CoreMLPackages.swift").read_text(encoding="utf-8")
    wrong = tmp_path / "CoreMLPackages.swift"
    wrong.write_text(right.replace("configuration.functionName", "configuration.functionNames"))
    others = [path for path in SOURCES if path.name != wrong.name]
    options = ("-typecheck", "-module-name", "MiniCPMV")
    code, text = frontend(*options, *others, "-primary-file", wrong)
    assert code != 0
    assert "has no member 'functionNames'" in text


def test_the_example_is_parsed(frontend):
    sources = sorted((FOLDER / "Example").rglob("*.swift"))
    assert len(sources) >= 4
    for path in sources:
        code, text = frontend("-parse", path)
        assert code == 0, text


def test_the_list_of_apis_is_current():
    apis = _apis()
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert readme == apis.with_table(readme), "run python ios_bridge/apple_apis.py"


def test_everything_listed_is_called():
    code = "\n".join(path.read_text(encoding="utf-8") for path in [*SOURCES, *COMMANDS])
    words = set(re.findall(r"\w+", code))
    # Types that are only the kind of a value, and what an initializer is called by.
    silent = {
        *("MLCPUComputeDevice", "MLGPUComputeDevice", "MLNeuralEngineComputeDevice"),
        *("MLComputeDevice", "CMSampleBuffer", "AVMediaType", "AVAsyncProperty", "AVAssetTrack"),
        *("AVAssetReaderOutput", "Program", "Function", "DeviceUsage", "Cost", "CVBuffer"),
        *("Operation", "MLFeatureProvider"),
    }
    listed = [api for stub in sorted(STUBS.glob("*.swift")) for api in _apis().read_apis(stub)]
    assert len(listed) > 80
    names = {re.sub(r"\(.*", "", api.name.split(".")[-1]) for api in listed}
    assert names - words - silent == set()


def _is_newer(api):
    ios, macos = (tuple(map(int, (text or "0").split("."))) for text in (api.ios, api.macos))
    return ios > (18,) or macos > (15,)


def test_no_api_is_newer_than_what_uses_it_asks_for():
    newer = {
        api.module
        for stub in STUBS.glob("*.swift")
        for api in _apis().read_apis(stub)
        if _is_newer(api)
    }
    assert newer == {"BackgroundAssets"}
    users = [path for path in SOURCES if "import BackgroundAssets" in path.read_text("utf-8")]
    assert len(users) == 1
    for path in users:
        code = path.read_text(encoding="utf-8")
        types = re.findall(r"^    (?:@.*\n    )?public (?:struct|class|enum|actor)", code, re.M)
        assert types and all("@available(iOS 26, macOS 26, *)" in found for found in types)
