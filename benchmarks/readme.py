"""`python -m benchmarks.readme`: write the tables of README.md, docs/benchmarks.md and
docs/coreml.md from the measurements in benchmarks/results/."""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.outcomes import apple_table, damage_table
from benchmarks.stranger import stranger_table
from benchmarks.summary import fidelity_table, speed_table
from validation.answers.report import answers_table

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PARITY = {
    "none": "none",
    "int8": "int8",
    "int4": "int4",
    "onnx": "ONNX int4-fast",
    "onnx-portable": "ONNX portable int4-fast",
}  # file and column
ANSWERS = ("all", "fp16", "fp32")
_TOWERS = {name: f"`vision_encoder={name}`" for name in ("none", "fp16", "int8")}


def palettize_table(report: dict[str, Any]) -> str:
    """Speed and error of each tool."""
    lines = [
        "| tool | M weights/s | ours is faster by | squared error, ours / its |",
        "|---|---|---|---|",
    ]
    for tool, entry in report["results"].items():
        if not isinstance(entry, dict):
            lines.append(f"| {tool} | {entry} | | |")
            continue
        rate, name = f"{entry['parameters_per_second'] / 1e6:,.0f}", tool
        faster = f"{entry['ours_is_faster_by']:.0f} ×"
        error = f"{entry['error_of_ours_to_this']:.6f}"
        if tool != "ours":
            name = f"{tool} {report['versions'][tool.replace('_', '-')]}"
        lines.append(f"| {name} | {rate} | {faster} | {error} |")
    return "\n".join(lines)


def layer_table(report: dict[str, Any]) -> str:
    """One full-size decoder layer: time, memory and error of each tool."""
    lines = [
        "| tool | seconds | ours is faster by | memory, GB | to ours | squared error, ours / its |",
        "|---|---|---|---|---|---|",
    ]
    for tool, entry in report["results"].items():
        name = tool if tool == "ours" else f"{tool} {report['versions'][tool]}"
        faster, memory = f"{entry['ours_is_faster_by']:.1f} ×", f"{entry['own_bytes'] / 1e9:.2f}"
        cells = (f"{entry['seconds']:.1f}", faster, memory, f"{entry['memory_to_ours']:.1f} ×")
        lines.append(f"| {name} | {' | '.join(cells)} | {entry['error_of_ours_to_this']:.6f} |")
    return "\n".join(lines)


def export_table(wholes: Mapping[str, dict[str, Any]], rows: list[dict[str, Any]]) -> str:
    """The whole model by several recipes, and the growth with the decoder's layers."""
    lines = [
        "| decoder layers | checkpoint, GB | seconds | seconds / GB | memory, GB | × disk only |",
        "|---|---|---|---|---|---|",
    ]
    wholes = {f"all, by `{recipe}`": whole for recipe, whole in wholes.items()}
    for row in [*rows, *({"layers": name, **whole} for name, whole in wholes.items())]:
        size, seconds = row["checkpoint_bytes"] / 1e9, row["seconds_with_start"]
        floor = f"{row['ratio_to_floor']:.1f}" if "ratio_to_floor" in row else ""
        cells = (f"{size:.1f}", f"{seconds:.0f}", f"{seconds / size:.1f}")
        memory = f"{row['usage']['own'] / 1e9:.2f}"
        lines.append(f"| {row['layers']} | {' | '.join(cells)} | {memory} | {floor} |")
    return "\n".join(lines)


def parity_table(reports: dict[str, dict[str, Any]]) -> str:
    """Same-weights and checkpoint decibels of each stage, a pair of columns per recipe."""
    head = " | ".join(f"{name}: same weights | {name}: checkpoint" for name in reports)
    lines = [f"| stage | {head} |", "|---" * (1 + 2 * len(reports)) + "|"]
    stages = [{row["stage"]: row for row in report["stages"]} for report in reports.values()]
    for name in sorted({name for rows in stages for name in rows}, key=_stage_order):
        cells = [
            _decibels(rows.get(name, {}).get(key))
            for rows in stages
            for key in ("same_weights_db", "checkpoint_db")
        ]
        if any(cells):
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def quality_table(report: dict[str, Any]) -> str:
    """What is left of real models under each recipe and format: means over the texts, and the
    distance on each; a table for each model."""
    models = dict.fromkeys(row["model"] for row in report["rows"])
    return "\n\n".join(
        f"{model}:\n\n{_quality_rows([row for row in report['rows'] if row['model'] == model])}"
        for model in models
    )


def _quality_rows(rows: Sequence[dict[str, Any]]) -> str:
    for text in {row["text"] for row in rows}:
        if len(lengths := {row["tokens"] for row in rows if row["text"] == text}) > 1:
            raise SystemExit(
                f"{text} was read to {sorted(lengths)} tokens: measure all rows alike."
            )
    texts = list(dict.fromkeys(row["text"] for row in rows))
    lines = [
        "| stored as | bits | KL | " + " | ".join(texts) + " | perplexity × | first token kept |",
        "|---|---|---|" + "---|" * len(texts) + "---|---|",
    ]
    for name in dict.fromkeys(row["bundle"] for row in rows):
        own = {row["text"]: row for row in rows if row["bundle"] == name}
        logs = [math.log(r["perplexity"] / r["reference_perplexity"]) for r in own.values()]
        cells = (
            f"{own[texts[0]]['bits_per_weight']:.2f}",
            f"**{mean(r['kl'] for r in own.values()):.3f}**",
            *(f"{own[text]['kl']:.3f} ± {own[text]['kl_error']:.3f}" for text in texts),
            f"{math.exp(mean(logs)):.2f}",
            f"{100 * mean(r['top1'] for r in own.values()):.1f} %",
        )
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _stage_order(stage: str) -> tuple[int, str]:
    """Inputs first, the whole chain last; by name within a kind, so that each run writes the same
    table."""
    order = ("preprocessing", "weights", "vision", "resampler", "embed", "decoder", "logits", "end")
    kinds = (n for n, name in enumerate(order) if stage.startswith(name))
    return next(kinds, len(order)), stage


def _decibels(value: float | str | None) -> str:
    if value is None:
        return ""
    return "exact" if isinstance(value, str) else f"{value:.1f}"


def decode_table(report: dict[str, Any]) -> str:
    """Tokens per second of the ONNX decoder and its peers; a star: other processes took part."""
    lines = [
        "| tool | threads | context | tokens/s | of the memory bound | prompt, tokens/s |",
        "|---|---|---|---|---|---|",
    ]
    for row in report["rows"]:
        if "not_run" in row:
            lines.append(f"| {row['tool']} | not run: {row['not_run']} | | | | |")
            continue
        decode = f"{row['decode']:.1f}{'' if row['decode_quiet'] else ' *'}"
        prefill = f"{row['prefill']:.0f}{'' if row['prefill_quiet'] else ' *'}"
        share = f"{100 * row['share_of_bound']:.0f} %"
        cells = (str(row["threads"]), str(row["context"]), decode, share, prefill)
        lines.append(f"| {row['tool']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def speculation_table(report: dict[str, Any]) -> str:
    """Speed with guessed tokens, relative to without, and how many guesses were right."""
    lines = ["| format | answer | tokens | × without | guesses right |", "|---|---|---|---|---|"]
    for row in report["figures"]:
        guesses = f"{row['accepted']} of {row['drafted']}"
        name = {"coreml": "Core ML", "onnx": "ONNX"}[row["bundle"]]
        lines.append(
            f"| {name} | {row['text']} | {row['tokens']} | {row['speed']:.2f} | {guesses} |"
        )
    return "\n".join(lines)


def schemas_table(report: dict[str, Any]) -> str:
    """How many answers fit, and milliseconds that a schema adds to a token."""
    fit = report["fit"]
    lines = [
        "| random schemas | answers | parse | fit | ended by the limit |",
        "|---|---|---|---|---|",
        "| " + " | ".join(str(fit[name]) for name in _FIT) + " |",
        "",
        "| tokens | choice | first answer, ms: median | worst | later, ms: median | worst |",
        "|---|---|---|---|---|---|",
    ]
    for row in report["costs"]:
        times = (f"{max(0.0, row[name]):.2f}" for name in _COSTS)  # less than the clock's noise
        lines.append(f"| {row['tokens']:,} | {row['way']} | {' | '.join(times)} |")
    return "\n".join(lines)


def vision_table(report: dict[str, Any]) -> str:
    """Views per second of the ONNX tower by storage form, and how far it is from PyTorch."""
    threads = sorted({row["threads"] for row in report["rows"]})
    speed = " | ".join(f"views/s, threads: {n} | × PyTorch" for n in threads)
    lines = [
        f"| tower | {speed} | cosine | at the worst position | dB |",
        "|---" * (4 + 2 * len(threads)) + "|",
    ]
    measured = report.get("exactness", {"rows": []})
    exactness = {row["tower"]: row for row in measured["rows"]}
    for tower in dict.fromkeys(row["tower"] for row in report["rows"]):
        cells = []
        for row in sorted(report["rows"], key=lambda row: row["threads"]):
            if row["tower"] == tower:
                rate = f"{row['views_per_second']:.2f}{'' if row['quiet'] else ' *'}"
                cells += [rate, f"{row['to_reference']:.2f}"]
        exact = exactness.get(tower)
        cells += (
            [f"{exact['cosine']:.6f}", f"{exact['worst']:.4f}", f"{exact['decibels']:.1f}"]
            if exact
            else [""] * 3
        )
        lines.append(f"| {_TOWERS.get(tower, tower)} | {' | '.join(cells)} |")
    if "outliers" in measured:
        heights = ", ".join(f"{height:.0f}" for height in measured["outliers"])
        lines += ["", f"Largest value over root mean square, layer by layer: {heights}."]
    return "\n".join(lines)


def onnx_full_table(report: dict[str, Any]) -> str:
    """The whole model for onnxruntime: its export, and its decoder by where the weights lie."""
    export = report["export"]
    lines = [
        "| whole model | seconds | memory, GB | mapped, GB | 128 tokens in, s | 8 out, s |",
        "|---|---|---|---|---|---|",
        f"| export | {export['seconds_with_start']:.0f} | {_memory(export)} | | |",
    ]
    ways = {
        "copied": "open",
        "written": "open, first use of `--prepacked`",
        "mapped": "open, later",
    }
    for way, name in ways.items():
        row = report[way]
        cells = (_memory(row), f"{row['prefill']:.1f}", f"{row['decode']:.1f}")
        lines.append(f"| {name} | {row['load']:.1f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def interpreter_table(report: dict[str, Any]) -> str:
    """Milliseconds of each call of the Core ML interpreter and of PyTorch, and what follows for the
    whole model; a star: other processes took part."""
    tools = list(dict.fromkeys(row["tool"] for row in report["rows"]))
    lines = [
        f"| call, ms | {' | '.join(tools)} | bound | beside a busy process | memory, GB |",
        "|---" * (4 + len(tools)) + "|",
    ]
    for call in dict.fromkeys(row["call"] for row in report["rows"]):
        rows = {row["tool"]: row for row in report["rows"] if row["call"] == call}
        ours = rows[tools[0]]
        cells = [f"{1e3 * r['seconds']:.1f}{'' if r['quiet'] else ' *'}" for r in rows.values()]
        cells += [f"{1e3 * ours['bound_seconds']:.1f}", f"{ours['busy_to_quiet']:.1f} ×"]
        lines.append(f"| {call} | {' | '.join(cells)} | {ours['own_bytes'] / 1e9:.2f} |")
    derived = report["derived"]
    lines += [
        "",
        "Derived for the whole model, not measured: "
        f"{derived['seconds_per_token']:.2f} s per token, "
        f"{derived['seconds_per_prompt']:.1f} s for a prompt of {derived['prompt_tokens']} tokens, "
        f"at most {derived['seconds_per_view_at_most']:.1f} s per view in the vision tower.",
    ]
    return "\n".join(lines)


def _memory(row: dict[str, Any]) -> str:
    return " | ".join(f"{row['usage'][name] / 1e9:.2f}" for name in ("own", "mapped"))


# Row of the README -> its files of parity and answers, and its name among the answers.
_FIDELITY = {
    "Core ML `int4`": ("int4", "all", "int4 fp16"),
    "Core ML `none`, float16": ("none", "fp16", "none fp16"),
    "ONNX `int4-fast`": ("onnx", "fp16", "onnx int4-fast"),
}
_FIT = ("schemas", "answers", "parsed", "valid", "ended_early")
_COSTS = ("first_median", "first_worst", "later_median", "later_worst")
_SPEED = (
    *("palettize", "layer", "full-export", "full-calibrated"),
    *("onnx-full", "onnx-decode", "onnx-vision"),
)
# Section of the page -> its measurement and table, if it has a single measurement.
_SECTIONS: Mapping[str, tuple[str, Callable[[dict[str, Any]], str]]] = {
    "palettize": ("palettize", palettize_table),
    "layer": ("layer", layer_table),
    "decode": ("onnx-decode", decode_table),
    "speculation": ("speculation", speculation_table),
    "schemas": ("schemas", schemas_table),
    "vision": ("onnx-vision", vision_table),
    "onnx-full": ("onnx-full", onnx_full_table),
    "interpreter": ("interpreter", interpreter_table),
    "quality": ("quality", quality_table),
    "damage": ("damage", damage_table),
}


def readme_sections() -> dict[str, str]:
    """The tables of README.md by the name of their comments."""
    rows = [
        (name, _read(f"parity-{parity}"), _read(f"answers-{answers}"), candidate)
        for name, (parity, answers, candidate) in _FIDELITY.items()
    ]
    return {
        "fidelity": fidelity_table(rows),
        "speed": speed_table({name: _read(name) for name in _SPEED}),
    }


def page_sections() -> dict[str, str]:
    """The tables of docs/benchmarks.md by the name of their comments."""
    return {
        **{section: table(_read(name)) for section, (name, table) in _SECTIONS.items()},
        "export": export_table(
            {"int4-fast": _read("full-export"), "int4": _read("full-calibrated")},
            _read("scaling")["rows"],
        ),
        "answers": answers_table([_read(f"answers-{name}") for name in ANSWERS]),
        "parity": parity_table({c: _read(f"parity-{name}") for name, c in PARITY.items()}),
    }


def _read(name: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return values


def replace_section(text: str, name: str, table: str) -> str:
    """`text` with the table between the two comments called `name`."""
    pattern = re.compile(f"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    replaced, count = pattern.subn(lambda match: match[1] + table + "\n" + match[2], text)
    if count != 1:
        raise SystemExit(f"the page has {count} sections {name}; there must be one")
    return replaced


def written_pages() -> dict[Path, str]:
    """The pages with the tables of the measurements."""
    pages = {
        ROOT / "README.md": readme_sections(),
        ROOT / "docs/benchmarks.md": page_sections(),
        ROOT / "docs/coreml.md": {
            "stranger": stranger_table(_read("stranger")),
            "apple": apple_table(_read("apple")),
        },
    }
    texts = {}
    for path, sections in pages.items():
        texts[path] = path.read_text(encoding="utf-8")
        for name, table in sections.items():
            texts[path] = replace_section(texts[path], name, table)
    return texts


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the pages, or with `--check` name those that differ and return 1."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.readme", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, fail on a difference")
    check = parser.parse_args(arguments).check
    stale = [
        (path, text)
        for path, text in written_pages().items()
        if path.read_text(encoding="utf-8") != text
    ]
    for path, text in stale:
        if check:
            print(f"{path} is out of date; run python -m benchmarks.readme", file=sys.stderr)
        else:
            path.write_text(text, encoding="utf-8")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
