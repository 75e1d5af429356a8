"""Who may import whom, how long a file may be, and what no tracked file may say."""

import ast
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.paths import ROOT

PACKAGES = ("export", "mobile_runtime", "validation", "benchmarks", "examples", "docs")
# Package -> the modules of ours that it may import, besides itself.
ARROWS = {
    "export": tuple(
        f"mobile_runtime.{leaf}"
        for leaf in (
            *("bundle", "command", "errors", "files", "strict_json"),
            *("model.positions", "chat.tokenizer_file"),
        )
    ),
    "mobile_runtime": (),
    "validation": ("export.*", "mobile_runtime.*"),
    "examples": ("export.*", "mobile_runtime.*", "validation.*"),
}
# Calibrating reads chats and pictures exactly as the runtime will.
CALIBRATION = ("mobile_runtime.chat", "mobile_runtime.pictures")
# Package -> its rooms, from the top down: a room may import those below it, never one above.
ROOMS = {
    "export": (
        *(
            "cli",
            "upload",
            "pipeline",
            "calibration",
            "build",
            "plan",
            "backends",
            "releases",
            "host",
            "graphs",
            "models",
        ),
        *("checkpoint", "quant", "config"),
    ),
    "mobile_runtime": (
        *(
            "cli",
            "serve",
            "transformers_api",
            "package",
            "command",
            "session",
            "model",
            "chat",
            "pictures",
            "engines",
            "mlprogram",
            "sampling",
        ),
        *("bundle", "strict_json", "files", "errors"),
    ),
    "validation": (
        *(
            "cli",
            "commands",
            "harnesses",
            "benchmark",
            "cache_scales",
            "quality",
            "doctor",
            "planner",
            "answers",
            "questions",
        ),
        *("parity", "reference", "sources", "stored", "chats"),
    ),
}
# Modules of one room that lie below another of the same package: arithmetic without imports.
LEAVES = {"mobile_runtime.model.positions"}
# Library -> the files that may import it; benchmarks and tests may import anything.
IMPORTERS = {
    "coremltools": (
        "export/backends/coreml/*",
        "mobile_runtime/engines/coreml.py",
        "mobile_runtime/package/predictions.py",
    ),
    "torch": (
        "export/calibration/*",
        "mobile_runtime/engines/torch/*",
        "mobile_runtime/transformers_api/*",
        "validation/*",
        "examples/*",
    ),
    "av": ("mobile_runtime/pictures/video.py",),
    "pillow_heif": ("mobile_runtime/pictures/heic.py",),
    "safetensors": ("export/*", "validation/*", "examples/*"),
    "matplotlib": ("examples/pocket/plot.py",),
    "huggingface_hub": ("export/*", "mobile_runtime/model/hub.py"),
    "numba": ("export/quant/*", "mobile_runtime/engines/mil/*_kernels.py"),
    "distributed": ("export/build/workers.py",),
    "starlette": ("mobile_runtime/serve/*",),
    "uvicorn": ("mobile_runtime/serve/server.py",),
    "onnx": ("export/backends/onnx/*",),
    "onnxruntime": ("mobile_runtime/engines/onnx/*",),
    "transformers": ("mobile_runtime/transformers_api/*",),
    "lm_eval": ("validation/harnesses/lm_eval.py",),
    "lmms_eval": ("validation/harnesses/lmms_eval.py",),
}
MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_README_LINES = 400, 60, 130
MAX_ROOMS = 16  # modules and folders at the top of a package, without __init__ and __main__
# Split, so that this file passes its own test.
MACHINE_PATHS = tuple(f"/{name}/" for name in ("work", "root", "Users"))


def sources(*packages):
    """Path relative to the root -> syntax tree, of every module of the packages."""
    paths = (path for package in packages for path in sorted((ROOT / package).rglob("*.py")))
    return {
        path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
        for path in paths
    }


TREES = sources(*PACKAGES)


def imported(name, tree):
    """Full names of the modules, or of what is taken out of them, wherever they are imported."""
    package = name.removesuffix(".py").split("/")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def allowed(target, patterns):
    """`target` may be a name inside an allowed module."""
    return any(fnmatch(target, p) or target.startswith(p + ".") for p in patterns)


def test_relative_and_absolute_imports_are_both_seen():
    tree = ast.parse("import a.b\nfrom c import d\nfrom . import e\nfrom ..f import g")
    assert list(imported("p/q/r.py", tree)) == ["a.b", "c.d", "p.q.e", "p.f.g"]
    assert list(imported("p/q/__init__.py", tree))[2:] == ["p.q.e", "p.f.g"]


def test_there_are_modules_to_check():
    assert all(sum(name.startswith(package + "/") for name in TREES) > 5 for package in ARROWS)


@pytest.mark.parametrize("package", list(ARROWS))
def test_imports_follow_the_arrows(package):
    ours = {*PACKAGES, "tests", "ios_bridge"}
    patterns = (package, *ARROWS[package])
    wrong = [
        f"{name} imports {target}"
        for name, tree in TREES.items()
        if name.startswith(package + "/")
        for target in imported(name, tree)
        if target.split(".")[0] in ours and not allowed(target, patterns)
        if not (name.startswith("export/calibration/") and allowed(target, CALIBRATION))
    ]
    assert wrong == []


def edges():
    """(importing module, imported module) of ours, type checking left out; a package stands for
    its __init__."""
    modules = {
        name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in TREES
    }
    for name, tree in TREES.items():
        importing = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for target in imported(name, without_type_checking(tree)):
            parts = target.split(".")
            found = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
            module = next((m for m in found if m in modules), None)
            if module is not None and module != importing:
                yield importing, module


def without_type_checking(tree):
    class Stripped(ast.NodeTransformer):
        def visit_If(self, node):
            self.generic_visit(node)
            return node if "TYPE_CHECKING" not in ast.unparse(node.test) else node.orelse or None

    return Stripped().visit(ast.parse(ast.unparse(tree)))


EDGES = sorted(set(edges()))


@pytest.mark.parametrize("package", list(ROOMS))
def test_rooms_are_those_of_the_package(package):
    found = {path.stem for path in (ROOT / package).glob("*.py")}
    found |= {path.parent.name for path in (ROOT / package).glob("*/*.py")}
    assert found - {"__init__", "__main__"} == set(ROOMS[package])
    assert len([p for p in (ROOT / package).iterdir() if p.name[0] not in "_."]) <= MAX_ROOMS


@pytest.mark.parametrize("package", list(ROOMS))
def test_no_room_imports_one_above_it(package):
    order = {room: n for n, room in enumerate(ROOMS[package])}
    wrong = [
        f"{a} imports {b}"
        for a, b in EDGES
        if a.startswith(package + ".") and b.startswith(package + ".") and b not in LEAVES
        if order.get(b.split(".")[1], 99) < order.get(a.split(".")[1], -1)
    ]
    assert wrong == []


def test_no_module_imports_itself_in_a_circle():
    graph = {}
    for a, b in EDGES:
        graph.setdefault(a, set()).add(b)
    assert list(circles(graph)) == []


def test_a_circle_is_found():
    assert list(circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})) == [["a", "b", "c"]]


def circles(graph):
    """Each circle once, by what is reachable from a module and reaches it."""
    reach = {a: reachable(graph, a) for a in graph}
    seen = set()
    for a in sorted(graph):
        if a in reach[a] and a not in seen:
            circle = sorted(b for b in reach[a] if a in reach.get(b, ()))
            seen |= set(circle)
            yield circle


def reachable(graph, start):
    found, left = set(), [start]
    while left:
        for b in graph.get(left.pop(), ()):
            if b not in found:
                found.add(b)
                left.append(b)
    return found


@pytest.mark.parametrize("library", list(IMPORTERS))
def test_library_is_imported_only_where_it_belongs(library):
    wrong = [
        name
        for name, tree in TREES.items()
        if not name.startswith("benchmarks/")
        and not any(fnmatch(name, pattern) for pattern in IMPORTERS[library])
        and any(target.split(".")[0] == library for target in imported(name, tree))
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        (
            "mobile_runtime.cli",
            [
                *(
                    "torch",
                    "coremltools",
                    "numba",
                    "safetensors",
                    "av",
                    "export",
                    "starlette",
                    "uvicorn",
                )
            ],
        ),
        ("mobile_runtime.engines.mil", ["torch", "coremltools", "export"]),
        ("export.cli", ["torch", "coremltools", "transformers", "huggingface_hub"]),
    ],
)
def test_command_starts_without_the_libraries_that_it_does_not_need(module, absent):
    code = f"import sys, {module}; print([n for n in {absent} if n in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_no_file_is_too_long():
    lengths = {name: len((ROOT / name).read_text(encoding="utf-8").splitlines()) for name in TREES}
    assert {name: n for name, n in lengths.items() if n > MAX_FILE_LINES} == {}


def test_the_readme_stays_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= MAX_README_LINES


def functions(tree):
    kinds = ast.FunctionDef | ast.AsyncFunctionDef
    return (node for node in ast.walk(tree) if isinstance(node, kinds))


def test_no_function_is_too_long():
    long = [
        f"{name}:{node.lineno} {node.name}"
        for name, tree in TREES.items()
        for node in functions(tree)
        if node.end_lineno - node.lineno + 1 > MAX_FUNCTION_LINES
    ]
    assert long == []


def test_every_module_says_what_it_is():
    assert [name for name, tree in TREES.items() if tree.body and not ast.get_docstring(tree)] == []


def test_no_module_is_a_drawer():
    drawers = {"utils", "util", "helpers", "helper", "misc", "common"}
    assert [name for name in TREES if drawers & set(Path(name).with_suffix("").parts)] == []


def test_no_module_reads_environment_variables():
    wrong = [
        name
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv")
    ]
    assert wrong == []


def test_public_functions_of_the_packages_are_documented():
    """Methods that implement a documented protocol, and nested functions, speak for themselves."""
    wrong = [
        f"{name}:{node.lineno} {node.name}"
        for name, tree in TREES.items()
        if not name.startswith("benchmarks/")
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]
    assert wrong == []


def test_no_tracked_file_names_a_path_of_one_machine():
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("needs the git checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    wrong = []
    for path in paths:
        if path.is_file():
            content = path.read_bytes()
            wrong += [f"{path}: {m}" for m in MACHINE_PATHS if m.encode() in content]
    assert wrong == []


def test_every_folder_of_tests_is_collected(pytestconfig):
    """pytest skips folders with some names without a word."""
    skipped = pytestconfig.getini("norecursedirs")
    folders = {path.parent for path in (ROOT / "tests").rglob("test_*.py")}
    parts = {part for folder in folders for part in folder.relative_to(ROOT).parts}
    assert "build" in parts
    assert [part for part in parts if any(fnmatch(part, pattern) for pattern in skipped)] == []
