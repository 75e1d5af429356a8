"""Rules about sizes of packages, and of those that are opened together."""

from __future__ import annotations

from validation.doctor.rule import Places, Theme
from validation.doctor.view import BundleView, PackageView

THEME = Theme("P", "Packages")
_SAFE, _FALLS_BACK, _NEVER = 1.0e9, 1.4e9, 1.7e9
_TWO_GIB = 1 << 31
_WORKING_SET = 3.0e9
_PROGRAMS = 128
_STORE = 4.0e9


def _on_phone(view: PackageView | BundleView) -> bool:
    return view.device is None or view.device.kind != "mac"


def _size(bytes_: float) -> str:
    return f"{bytes_ / 1e9:.2f} GB of weights"


@THEME.package(
    1,
    "more than 1 GB of weights in a package",
    severity="warning",
    effect="leaves",
    source="mlmodel-utilities.md of coremltools, Anemll (950 MB), coremltools#2554, on iPhones",
    confidence="high",
    remedy="cut it into packages of at most 950 MB",
)
def _above_safe(view: PackageView) -> Places:
    if _on_phone(view) and _SAFE < view.weight_bytes <= _FALLS_BACK:
        yield "", _size(view.weight_bytes)


@THEME.package(
    2,
    "more than 1.4 GB of weights in a package",
    severity="warning",
    effect="leaves",
    source="CoreML-LLM, DECODE_STATE_LAYOUTS.md, iPhone 17 Pro: falls back to the GPU silently",
    confidence="medium",
    remedy="cut it into packages of at most 950 MB",
)
def _falls_back(view: PackageView) -> Places:
    if _on_phone(view) and _FALLS_BACK < view.weight_bytes <= _NEVER:
        yield "", _size(view.weight_bytes)


@THEME.package(
    3,
    "more than 1.7 GB of weights in a package",
    severity="error",
    effect="risky",
    source="coreai-model-zoo, iPhone 17 Pro: 1.70 GB runs, 2.16 GB loads and never answers",
    confidence="medium",
    remedy="cut it into packages of at most 950 MB",
)
def _never_answers(view: PackageView) -> Places:
    if _on_phone(view) and view.weight_bytes > _NEVER:
        yield "", _size(view.weight_bytes)


@THEME.package(
    4,
    "2 GiB of weights or more",
    severity="error",
    effect="risky",
    source="coremltools#2593: the weight file exceeds the maximum of 2147483648 bytes; #1807",
    confidence="high",
    remedy="cut it into several packages",
)
def _two_gib(view: PackageView) -> Places:
    if view.weight_bytes >= _TWO_GIB:
        yield "", _size(view.weight_bytes)


@THEME.bundle(
    5,
    "more than 3 GB of weights in all packages",
    severity="note",
    effect="risky",
    source="smpanaro/more-ane-transformers: about 3 GB in all on the Neural Engine, older systems",
    confidence="low",
    remedy="measure on the oldest device; close the vision side while text is written",
)
def _working_set(view: BundleView) -> Places:
    total = sum(package.weight_bytes for package in view.packages)
    if _on_phone(view) and total > _WORKING_SET:
        yield "", _size(total)


@THEME.bundle(
    6,
    "more than 128 programs",
    severity="error",
    effect="risky",
    source="coreai-model-zoo: a process may have 128 programs loaded on the Neural Engine",
    confidence="medium",
    remedy="join packages, or close those that are not needed",
)
def _programs(view: BundleView) -> Places:
    count = sum(len(package.functions) for package in view.packages)
    if count > _PROGRAMS:
        yield "", f"{count} functions in {len(view.packages)} packages"


@THEME.bundle(
    7,
    "more than an app of the App Store may hold",
    severity="note",
    effect="risky",
    source="Apple: an app has at most 4 GB, an on-demand pack 8 GB (iOS 18)",
    confidence="medium",
    remedy="let the app load it after installation, with Background Assets",
)
def _store(view: BundleView) -> Places:
    total = sum(package.weight_bytes for package in view.packages)
    if _on_phone(view) and total > _STORE:
        yield "", _size(total)
