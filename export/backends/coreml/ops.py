"""The graph vocabulary as Core ML operations, shaped for the Neural Engine.

Activations are (1, channels, 1, length), heads (1, heads, head_dim, length), rows
(1, kv_heads, length, head_dim); everything is float16 and static, no tensor exceeds rank 4.
Weights are placeholders without memory that remember which parameter they stand for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import types

from export.backends.coreml.placeholders import Placeholders
from export.graphs.graph import CacheOps, Linear, Parameter, Value
from export.quant.recipe import QuantSpec

_LEAST_EPS = 2.0**-20  # of an RMS norm; below, float16 has four digits of it or fewer
_EPS_CHANNELS = 16  # of each sign, so that the number of channels stays a multiple of 32


class CoreMLOps:
    """Emits into the MIL function that is being built. Implements `CacheOps`."""

    def __init__(self, specs: Mapping[str, QuantSpec], placeholders: Placeholders) -> None:
        self._specs = specs
        self._placeholders = placeholders

    def linear(self, x: Value, weight: Parameter, bias: Parameter | None = None) -> Value:
        """A 1×1 convolution: the form that the Neural Engine runs fastest."""
        kernel = self._matrix(weight)
        optional = {} if bias is None else {"bias": self._placeholders.vector(bias)}
        return mb.conv(x=x, weight=kernel, pad_type="valid", name=_name(weight), **optional)

    def linears(self, x: Value, layers: Sequence[Linear]) -> Sequence[Value]:
        return [self.linear(x, weight, bias) for weight, bias in layers]

    def add(self, x: Value, y: Value) -> Value:
        return mb.add(x=x, y=y)

    def multiply(self, x: Value, y: Value) -> Value:
        return mb.mul(x=x, y=y)

    def silu(self, x: Value) -> Value:
        return mb.silu(x=x)

    def gelu_tanh(self, x: Value) -> Value:
        return mb.gelu(x=x, mode="TANH_APPROXIMATION")

    def layer_norm(self, x: Value, weight: Parameter, bias: Parameter, eps: float) -> Value:
        return mb.layer_norm(
            x=x,
            axes=[1],
            gamma=self._placeholders.vector(weight),
            beta=self._placeholders.vector(bias),
            epsilon=np.float16(eps),
            name=_name(weight),
        )

    def rms_norm(self, x: Value, weight: Parameter, eps: float) -> Value:
        return self._rms_norm(x, weight, eps, axis=1)

    def heads(self, x: Value, num_heads: int) -> Value:
        _, channels, _, length = x.shape
        return mb.reshape(x=x, shape=(1, num_heads, channels // num_heads, length))

    def head_rms_norm(self, x: Value, weight: Parameter, eps: float) -> Value:
        return self._rms_norm(x, weight, eps, axis=2)

    def _rms_norm(self, x: Value, weight: Parameter, eps: float, axis: int) -> Value:
        """Compute layer_norm([x, −x])[:n]: its mean is zero, so its variance is mean(x²).

        The fused operation cannot overflow in float16, as x² can. An eps that float16 does not hold
        becomes channels ±c, m of each sign, with m·c² = n·eps:

            x / sqrt((Σx² + m·c²)/(n + m)) · sqrt(n/(n + m)) = x / sqrt(mean(x²) + eps).
        """
        n, negative = x.shape[axis], mb.mul(x=x, y=np.float16(-1))
        added, values = 0, [x, negative]
        if eps < _LEAST_EPS:
            added = _EPS_CHANNELS
            constant = np.float16((n * eps / added) ** 0.5)
            # From x, since only operations that every unit runs give a constant of this shape.
            zeros = mb.mul(x=_part(x, axis, 0, added), y=np.float16(0))
            values += [mb.add(x=zeros, y=constant), mb.add(x=zeros, y=-constant)]
        normed = mb.layer_norm(
            x=mb.concat(values=values, axis=axis),
            axes=[axis],
            gamma=self._placeholders.doubled_vector(weight, added),
            epsilon=np.float16(0 if added else eps),
            name=_name(weight),
        )
        return _part(normed, axis, 0, n)

    def rope(self, x: Value, cos: Value, sin: Value) -> Value:
        half = x.shape[2] // 2
        second = mb.mul(x=_part(x, 2, half, 2 * half), y=np.float16(-1))
        rotated = mb.concat(values=[second, _part(x, 2, 0, half)], axis=2)
        return mb.add(x=mb.mul(x=x, y=cos), y=mb.mul(x=rotated, y=sin))

    def to_rows(self, x: Value) -> Value:
        _, heads, dim, length = x.shape
        if length == 1:
            return mb.reshape(x=x, shape=(1, heads, 1, dim))
        return mb.transpose(x=x, perm=(0, 1, 3, 2))

    def scaled(self, q: Value, k: Value, scale: float) -> tuple[Value, Value]:
        for_q, for_k = split_scale(scale)
        q = mb.mul(x=q, y=for_q)
        return q, k if for_k == 1 else mb.mul(x=k, y=for_k)

    def attend(self, q: Value, k: Value, v: Value, mask: Value, scale: float) -> Value:
        q, k = self.scaled(q, k, scale)
        scores = mb.add(x=mb.matmul(x=q, y=k, transpose_x=True), y=mask)
        return self._weigh(scores, v)

    def weighted_values(self, scores: Value, values: Value, num_heads: int) -> Value:
        _, channels, _, length = scores.shape
        scores = mb.reshape(x=scores, shape=(1, num_heads, channels // num_heads, length))
        return self._weigh(scores, self.heads(values, num_heads))

    def _weigh(self, scores: Value, values: Value) -> Value:
        """(1, H, Q, N) scores, (1, H, d, N) values -> activation (1, H·d, 1, Q)."""
        out = mb.matmul(x=values, y=mb.softmax(x=scores, axis=-1), transpose_y=True)
        _, heads, dim, queries = out.shape
        return mb.reshape(x=out, shape=(1, heads * dim, 1, queries))

    def grouped_mask(self, mask: Value, groups: int) -> Value:
        """(1, 1, S, N) -> (1, 1, groups·S, N); one row is broadcast."""
        if mask.shape[2] == 1 or groups == 1:
            return mask
        return mb.concat(values=[mask] * groups, axis=2)

    def write_cache(self, state: Value, rows: Value, index: int, position: Value) -> Value:
        """read_state → slice_update → write_state → slice: the pattern that runs on iPhones."""
        _, heads, length, dim = rows.shape
        end = mb.add(x=position, y=np.array([length], np.int32))
        begins = [np.array([index, 0], np.int32), position, np.array([0], np.int32)]
        ends = [np.array([index + 1, heads], np.int32), end, np.array([dim], np.int32)]
        updated = mb.slice_update(
            x=mb.read_state(input=state),
            update=rows,
            begin=mb.concat(values=begins, axis=0),
            end=mb.concat(values=ends, axis=0),
        )
        return self.cache_row(mb.coreml_update_state(state=state, value=updated), index)

    def cache_row(self, cache: Value, index: int) -> Value:
        return _part(cache, 0, index, index + 1)

    def grouped_attention(
        self, q: Value, keys: Sequence[Value], values: Sequence[Value], mask: Value
    ) -> Value:
        """Fold the query heads of one kv head into the length, so that keys are never repeated."""
        _, heads, dim, length = q.shape
        kv_heads = keys[0].shape[1]
        groups = heads // kv_heads
        q = self._fold(q, kv_heads, groups)  # (1, kv_heads, groups·S, head_dim)
        scores = [mb.matmul(x=q, y=k, transpose_y=True) for k in keys]
        joined = scores[0] if len(scores) == 1 else mb.concat(values=scores, axis=-1)
        weights = mb.softmax(x=mb.add(x=joined, y=mask), axis=-1)
        out, begin = None, 0
        for v in values:
            end = begin + v.shape[2]
            part = weights if len(values) == 1 else _part(weights, 3, begin, end)
            product = mb.matmul(x=part, y=v)
            out, begin = product if out is None else mb.add(x=out, y=product), end
        return self._unfold(out, (kv_heads, groups, length, dim))

    def _fold(self, q: Value, kv_heads: int, groups: int) -> Value:
        _, _, dim, length = q.shape
        if length > 1:
            q = mb.reshape(x=q, shape=(kv_heads, groups, dim, length))
            q = mb.transpose(x=q, perm=(0, 1, 3, 2))
        return mb.reshape(x=q, shape=(1, kv_heads, groups * length, dim))

    def _unfold(self, x: Value, shape: tuple[int, int, int, int]) -> Value:
        kv_heads, groups, length, dim = shape
        if length > 1:
            x = mb.transpose(x=mb.reshape(x=x, shape=shape), perm=(0, 1, 3, 2))
        return mb.reshape(x=x, shape=(1, kv_heads * groups * dim, 1, length))

    def stack_rows(self, rows: Sequence[Value]) -> Value:
        return mb.concat(values=list(rows), axis=0)

    def _matrix(self, weight: Parameter) -> Any:
        return self._placeholders.kernel(weight, self._specs[weight.name])


def _name(parameter: Parameter) -> str:
    """Operation name of the layer that a parameter belongs to."""
    return parameter.name.removesuffix(".weight").replace(".", "_")


def _part(x: Value, axis: int, begin: int, end: int) -> Value:
    """Elements `begin` to `end` of one axis, as a static slice."""
    begins = [0] * x.rank
    ends = list(x.shape)
    begins[axis], ends[axis] = begin, end
    return mb.slice_by_index(x=x, begin=begins, end=ends)


def split_scale(scale: float) -> tuple[np.float16, np.float16]:
    """Return two float16 factors whose product is within 2⁻²⁰ of `scale`.

    The second is 1 if `scale` is a float16. head_dim^−½ rounded to float16 has an error of up to
    2⁻¹², which every score would inherit.
    """
    if float(np.float16(scale)) == scale:
        return np.float16(scale), np.float16(1)
    candidates = (1 + np.arange(1024) / 1024).astype(np.float16)
    partners = (scale / candidates.astype(np.float64)).astype(np.float16)
    products = candidates.astype(np.float64) * partners.astype(np.float64)
    best = int(np.argmin(np.abs(products - scale)))
    return partners[best], candidates[best]


_IMPLEMENTS: type[CacheOps] = CoreMLOps  # for mypy to check

MIL_DTYPES = {"float16": types.fp16, "int32": types.int32}
