"""The random weights behind the golden arrays, made tensor by tensor, and the golden pictures.

A weight depends on its name and the seed alone, through NumPy's frozen RandomState stream.
"""

import zlib
from functools import cache

import ml_dtypes
import numpy as np
from PIL import Image

from export.models.tensors import tensor_shapes
from export.releases import parse_config

SEED = 3
CONFIG = {
    "model_type": "minicpmv",
    "version": 4.5,
    "hidden_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "intermediate_size": 128,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000,
    "max_position_embeddings": 40960,
    "vocab_size": 151748,
    "tie_word_embeddings": False,
    "drop_vision_last_layer": False,
    "query_num": 64,
    "eos_token_id": 151645,
    "vision_config": {
        "hidden_size": 64,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "intermediate_size": 96,
        "image_size": 980,
        "patch_size": 14,
        "model_type": "siglip",
    },
}


class SyntheticWeights:
    """A tensor source with the golden checkpoint's weights."""

    def __init__(self):
        self.config = parse_config(CONFIG)
        self._shapes = tensor_shapes(self.config)

    @property
    def names(self):
        """All tensors."""
        return list(self._shapes)

    @cache  # noqa: B019 — one object a test module
    def read(self, name):
        """Normal numbers: biases small, vectors near one, matrices scaled by their width."""
        shape = self._shapes[name]
        rng = np.random.RandomState(zlib.crc32(f"{SEED}:{name}".encode()))
        values = rng.standard_normal(size=int(np.prod(shape))).astype(np.float32).reshape(shape)
        if name.endswith("bias"):
            values *= 0.05
        elif len(shape) == 1:
            values = 1 + 0.1 * values
        elif name != "resampler.query":
            values /= np.sqrt(np.prod(shape[1:]))
        return values.astype(ml_dtypes.bfloat16)

    def read_rows(self, name, begin, end):
        return self.read(name)[begin:end]


def golden_picture(width, height, k):
    """The picture (width, height, k) of the golden data, computed in float64."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    r = (x * 255 / max(width - 1, 1) + 17 * k) % 256
    g = (y * 255 / max(height - 1, 1) + 31 * k) % 256
    b = 127 + 127 * np.sin(x / (7 + k) + y / (11 + k))
    radius = 0.3 * min(width, height)
    disc = (x - width * 0.5) ** 2 + (y - height * 0.4) ** 2 < radius**2
    channels = [np.where(disc, 255 - r, r), np.where(disc, b, g), b]
    pixels = np.clip(np.rint(np.stack(channels, axis=-1)), 0, 255)
    return Image.fromarray(pixels.astype(np.uint8))
