"""The two short tables of README.md: is a bundle the model, and how fast is everything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Report = Mapping[str, Any]


def fidelity_table(rows: Sequence[tuple[str, Report, Report, str]]) -> str:
    """For each (bundle, parity report, answer report, its name there): the error of the conversion,
    the error with quantization, and how often the bundle answers rightly."""
    lines = [
        "| bundle | same weights, worst stage | checkpoint, end to end | right answers "
        "| PyTorch, same questions | same answer as PyTorch |",
        "|---|---|---|---|---|---|",
    ]
    for name, parity, answers, candidate in rows:
        stages = {stage["stage"]: stage for stage in parity["stages"]}
        measured = [stage["same_weights_db"] for stage in stages.values()]
        worst = min(value for value in measured if isinstance(value, float))
        reference = answers["candidates"][0]
        cells = (
            f"{worst:.0f} dB",
            f"{stages['end_to_end']['checkpoint_db']:.0f} dB",
            f"{_right(answers, candidate):.1f} % of {_asked(answers):,}",
            f"{_right(answers, reference):.1f} %",
            f"{100 * answers['agreement'][candidate]:.1f} %",
        )
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _tasks(answers: Report) -> list[str]:
    """The tasks proper: rows with a comma ask the questions of another row again."""
    return [row for row in answers["scores"] if "," not in row]


def _asked(answers: Report) -> int:
    first = answers["candidates"][0]
    return sum(int(answers["scores"][task][first]["total"]) for task in _tasks(answers))


def _right(answers: Report, candidate: str) -> float:
    right = sum(answers["scores"][task][candidate]["right"] for task in _tasks(answers))
    return 100 * float(right) / _asked(answers)


def speed_table(results: Mapping[str, Report]) -> str:
    """One row for each claim, beside another tool or a bound; `results` by file name."""
    lines = ["| on two processor cores | here | for comparison |", "|---|---|---|"]
    rows = (*_quantizing(results), *_exporting(results), *_running(results))
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def _quantizing(results: Mapping[str, Report]) -> list[tuple[str, str, str]]:
    rates = results["palettize"]["results"]
    layer = results["layer"]["results"]
    ours, stock = layer["ours"], layer["coremltools"]
    peer = f"coremltools {results['layer']['versions']['coremltools']}"
    return [
        (
            "palettize a 4096 × 12288 matrix to 4 bits, million weights per second",
            f"{rates['ours']['parameters_per_second'] / 1e6:.0f}",
            f"{rates['coremltools']['parameters_per_second'] / 1e6:.0f}: {peer}",
        ),
        (
            "turn one full-size decoder layer into an int4 Core ML package",
            f"{ours['seconds']:.1f} s, {ours['own_bytes'] / 1e9:.1f} GB",
            f"{stock['seconds']:.0f} s, {stock['own_bytes'] / 1e9:.1f} GB: {peer}",
        ),
    ]


def _exporting(results: Mapping[str, Report]) -> list[tuple[str, str, str]]:
    coreml, onnx = results["full-export"], results["onnx-full"]["export"]
    calibrated = results["full-calibrated"]
    floor = sum(coreml["floor"].values())
    size = coreml["checkpoint_bytes"] / 1e9

    def cost(run: Report) -> str:
        return f"{run['seconds_with_start']:.0f} s, {run['usage']['own'] / 1e9:.1f} GB"

    minutes, memory = calibrated["seconds_with_start"] / 60, calibrated["usage"]["own"] / 1e9
    return [
        (
            f"export all {size:.1f} GB for Core ML, `int4`, calibration included",
            f"{minutes:.0f} min, {memory:.1f} GB",
            "–",
        ),
        (
            f"export all {size:.1f} GB for Core ML, `int4-fast`",
            cost(coreml),
            f"{floor:.0f} s: only reading and writing the bytes",
        ),
        (f"export all {size:.1f} GB for onnxruntime, `int4-fast`", cost(onnx), "–"),
    ]


def _running(results: Mapping[str, Report]) -> list[tuple[str, str, str]]:
    decode = {
        row["tool"]: row["decode"]
        for row in results["onnx-decode"]["rows"]
        if "decode" in row and (row["threads"], row["context"]) == (2, 512)
    }
    views = {
        row["tower"]: row["views_per_second"]
        for row in results["onnx-vision"]["rows"]
        if row["threads"] == 2
    }
    return [
        (
            "decode a 4-bit Qwen3 of 0.5 B parameters with onnxruntime, tokens per second",
            f"{decode['ours, blocks of 32, 8-bit cache']:.1f}",
            f"{decode['onnxruntime-genai']:.1f}: onnxruntime-genai; "
            f"{decode['llama.cpp Q4_0']:.1f}: llama.cpp Q4_0",
        ),
        (
            "run 2 of the 27 vision layers in int8 with onnxruntime, views per second",
            f"{views['int8']:.2f}",
            f"{views['PyTorch']:.2f}: PyTorch float32",
        ),
    ]
