"""Parameters of the graphs, derived from the checkpoint's tensors, and how to restore these.

Folding and padding happen here. If a tensor can be restored from a parameter, the parameter says
how, so that a reference model can run with the values that a bundle stores.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from export.checkpoint.source import TensorReader, WeightSource, stored_weights
from export.graphs.graph import Inverse, Parameter
from export.models.config import LAYER_NORM_EPS, ModelConfig
from export.quant.weights import Weight

KEY_QUERY = "resampler.attn.key_query.weight"


def stored(name: str, *shape: int) -> Parameter:
    """The tensor as the checkpoint has it."""

    def load(source: TensorReader) -> np.ndarray | Weight:
        return _finished(source, name, 0, shape[0]) or source.read(name)

    return Parameter(name, shape, load, inverse=Inverse(name))


def flattened(name: str, rows: int, columns: int) -> Parameter:
    """A convolution's weight as a matrix."""
    shape = (rows, columns)
    back = Inverse(name, as_stored=False)
    return Parameter(name, shape, lambda source: source.read(name).reshape(shape), inverse=back)


def transposed(name: str, rows: int, columns: int) -> Parameter:
    """The transpose of a matrix of the checkpoint."""
    return Parameter(
        name,
        (rows, columns),
        lambda source: np.ascontiguousarray(source.read(name).T),
        inverse=Inverse(
            name, restore=lambda values: np.ascontiguousarray(values.T), as_stored=False
        ),
    )


def row_block(
    name: str, tensor: str, begin: int, end: int, columns: int, restores: str = ""
) -> Parameter:
    """Rows begin … end - 1 of `tensor`; rows past its end are padding.

    `restores` names the tensor that is restored from them, if it is not `tensor`.
    """

    def load(source: TensorReader) -> np.ndarray | Weight:
        return _finished(source, tensor, begin, end) or source.read_rows(tensor, begin, end)

    back = Inverse(restores or tensor, begin, end)
    return Parameter(name, (end - begin, columns), load, tensor, back)


def vector_block(name: str, tensor: str, begin: int, end: int) -> Parameter:
    """Elements begin … end - 1 of a vector."""
    shape, back = (end - begin,), Inverse(tensor, begin, end)
    return Parameter(name, shape, lambda source: source.read(tensor)[begin:end], tensor, back)


def _finished(source: TensorReader, tensor: str, begin: int, end: int) -> Weight | None:
    """The rows in their storage form, if the source holds them finished."""
    if tensor in stored_weights(source) and isinstance(source, WeightSource):
        return source.read_weight(tensor, begin, end)
    return None


def key_query(config: ModelConfig) -> Parameter:
    """The resampler's queries folded into its key projection: see `fold_key_query`."""
    rows = config.resampler_heads * config.num_queries
    shape = (rows, config.decoder.hidden_size)
    load = partial(fold_key_query, num_heads=config.resampler_heads)
    return Parameter(KEY_QUERY, shape, load, "resampler.query, ln_q or attn.in_proj_weight")


def fold_key_query(source: TensorReader, num_heads: int) -> np.ndarray:
    """Return (heads · queries, D) float32; row (h, m) is head_dim^−½ · W_k,hᵀ · q_h,m.

    The queries are constants: q = W_q·LN(query) + b_q. So q·(W_k·key + b_k) = row·key + constant,
    and the constant, equal for all keys, cancels in the softmax.
    """
    query = source.read("resampler.query").astype(np.float64)
    centred = query - query.mean(-1, keepdims=True)
    normed = centred / np.sqrt(np.square(centred).mean(-1, keepdims=True) + LAYER_NORM_EPS)
    normed = normed * source.read("resampler.ln_q.weight").astype(np.float64)
    normed = normed + source.read("resampler.ln_q.bias").astype(np.float64)
    size = query.shape[1]
    head_dim = size // num_heads
    q_bias = source.read("resampler.attn.in_proj_bias")[:size].astype(np.float64)
    heads = [(begin, begin + head_dim) for begin in range(0, size, head_dim)]

    def rows(begin: int, end: int) -> np.ndarray:  # one head: all take 270 MB in float64
        return source.read_rows("resampler.attn.in_proj_weight", begin, end).astype(np.float64)

    queries = [normed @ rows(begin, end).T + q_bias[begin:end] for begin, end in heads]
    folded = [
        (q * head_dim**-0.5) @ rows(size + begin, size + end)
        for q, (begin, end) in zip(queries, heads, strict=True)
    ]
    return np.concatenate(folded).astype(np.float32)
