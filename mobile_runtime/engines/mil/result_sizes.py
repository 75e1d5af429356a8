"""How many elements an operation makes for its arguments, and by how many multiplications, known
before it runs.

A package is data that may come from anywhere, and a few bytes of it can ask for any amount of
memory: by a tile, by a value that is joined to itself, by factors that broadcast; or of time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from .ops.windows import padding, sizes

Arguments = Mapping[str, Any]


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(getattr(value, "shape", ()))


def _size(value: Any) -> int:
    return prod(_shape(value))


def _values(value: Any) -> list[int]:
    return [int(item) for item in np.ravel(value)]


def _broadcast(a: Arguments) -> int:
    shapes = [_shape(value) for value in _flat(a)]
    largest = max(map(prod, shapes), default=1)
    if prod(max(1, prod(shape)) for shape in shapes) <= 1 << 20:  # far below any budget
        return largest
    try:
        return max(largest, prod(np.broadcast_shapes(*shapes)))
    except ValueError:  # they are not combined with each other
        return largest


def _flat(a: Arguments) -> list[Any]:
    found: list[Any] = []
    for value in a.values():
        found.extend(value if isinstance(value, tuple) else [value])
    return found


def _product(x: tuple[int, ...], y: tuple[int, ...]) -> int:
    """Elements of the matrix product of shapes (…, n, k) and (…, k, m)."""
    batch = prod(np.broadcast_shapes(x[:-2], y[:-2]))
    return batch * prod(x[-2:-1]) * prod(y[-1:] if len(y) > 1 else ())


def _matmul(a: Arguments) -> int:
    x, y = _shape(a["x"]), _shape(a["y"])
    x = (*x[:-2], x[-1], x[-2]) if a.get("transpose_x", False) and len(x) > 1 else x
    y = (*y[:-2], y[-1], y[-2]) if a.get("transpose_y", False) and len(y) > 1 else y
    return _product(x, y)


def _attention(a: Arguments) -> int:
    query, key = _shape(a["query"]), _shape(a["key"])
    scores = _product(query, (*key[:-2], key[-1], key[-2]))
    return max(scores, _product((*query[:-1], key[-2]), _shape(a["value"])))


def _extents(a: Arguments) -> tuple[list[str], dict[str, int]]:
    """Of an einsum: the letters of its inputs and of its result, and how far each letter goes."""
    inputs, _, result = str(a["equation"]).replace(" ", "").partition("->")
    names, extents = inputs.split(","), dict[str, int]()
    for letters, value in zip(names, a["values"], strict=True):
        for letter, size in zip(letters, value.shape, strict=True):
            extents[letter] = max(size, extents.get(letter, 1))
    return [*names, result], extents


def _einsum(a: Arguments) -> int:
    names, extents = _extents(a)
    # Of more than two factors, an intermediate product may have all axes.
    made = [*names, "".join(extents) if len(names) > 3 else ""]
    return max(prod(extents[letter] for letter in letters) for letters in made)


def _windows(a: Arguments, kernel: Sequence[int]) -> tuple[list[int], int]:
    """Sides of the padded input of a convolution or pooling, and how many windows it has."""
    x = _shape(a["x"])
    axes = len(x) - 2
    step, dilation = sizes(a.get("strides"), 1, axes), sizes(a.get("dilations"), 1, axes)
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    ends = padding(a.get("pad_type", "valid"), a.get("pad"), x[2:], reach, step)
    padded = [n + before + after for n, (before, after) in zip(x[2:], ends, strict=True)]
    return padded, prod(max(0, n - r) // s + 1 for n, r, s in zip(padded, reach, step, strict=True))


def _window_sizes(a: Arguments, kernel: Sequence[int], columns: int) -> int:
    """Elements of the padded input of a convolution or pooling, and of `columns` per window."""
    x, (padded, windows) = _shape(a["x"]), _windows(a, kernel)
    return max(
        prod(x[:2]) * prod(n + min(k, n) for n, k in zip(padded, kernel, strict=True)),
        x[0] * windows * columns,
    )


def _conv(a: Arguments) -> int:
    weight = _shape(a["weight"])
    return _window_sizes(a, weight[2:], max(weight[0], prod(weight[1:])))


def _pool(a: Arguments) -> int:
    kernel = sizes(a["kernel_sizes"], 1, len(_shape(a["x"])) - 2)
    return _window_sizes(a, kernel, _shape(a["x"])[1])


def _conv_transpose(a: Arguments) -> int:
    x, weight = _shape(a["x"]), _shape(a["weight"])
    axes = len(x) - 2
    step, dilation = sizes(a.get("strides"), 1, axes), sizes(a.get("dilations"), 1, axes)
    full = [n * s + k * d for n, s, k, d in zip(x[2:], step, weight[2:], dilation, strict=True)]
    ends = sizes(a.get("pad"), 0, 2 * axes)
    wanted = _values(a["output_shape"])[2:] if a.get("output_shape") is not None else full
    length = [max(f, w + b) for f, w, b in zip(full, wanted, ends[::2], strict=True)]
    return x[0] * weight[1] * int(a.get("groups", 1)) * prod(length)


def _gather(a: Arguments) -> int:
    x = _shape(a["x"])
    batch, axis = int(a.get("batch_dims", 0)), int(a.get("axis", 0)) % len(x)
    return _size(a["indices"]) * prod(x[batch:axis]) * prod(x[axis + 1 :])


def _gather_nd(a: Arguments) -> int:
    x, indices = _shape(a["x"]), _shape(a["indices"])
    rest = x[int(a.get("batch_dims", 0)) + indices[-1] :]
    return prod(indices[:-1]) * prod(rest) * (indices[-1] + 1)


def _pad(a: Arguments) -> int:
    ends, x = _values(a["pad"]), _shape(a["x"])
    grown = [0] * (len(x) - len(ends) // 2) + [
        b + e for b, e in zip(ends[::2], ends[1::2], strict=True)
    ]
    return prod(n + more for n, more in zip(x, grown, strict=True))


def _resized(a: Arguments, *extents: int) -> int:
    x = _shape(a["x"])
    kept = x[: len(x) - len(extents)]
    # One axis after the other: what lies between may be larger than the result.
    return prod(kept) * prod(max(n, m) for n, m in zip(x[len(kept) :], extents, strict=True))


def _upsample(a: Arguments) -> int:
    height, width = _shape(a["x"])[-2:]
    factors = a.get("scale_factor_height", 1), a.get("scale_factor_width", 1)
    return _resized(a, int(height * float(factors[0])), int(width * float(factors[1])))


def _resize_to(a: Arguments) -> int:
    return _resized(a, int(a.get("target_size_height", 1)), int(a.get("target_size_width", 1)))


def _resize(a: Arguments) -> int:
    count = int(a["resized_dims"])
    return _resized(a, *_values(a["shape"])[-count:])


def _sliding_windows(a: Arguments) -> int:
    return _size(a["x"]) * int(a["size"])


def _recurrent(a: Arguments) -> int:
    """The projection of all steps, and the states of each."""
    rows, hidden = _shape(a["weight_hh"])
    directions = 2 if a.get("weight_hh_back") is not None else 1
    return prod(_shape(a["x"])[:2]) * directions * (2 * rows + 2 * hidden)


def _element(ls: Any) -> int:
    """The largest number of elements that an item of a list, written or not, may have."""
    return max(prod(max(0, int(n)) for n in ls.shape), *map(_size, ls.items), 0)


def _scattered(a: Arguments, positions: Any) -> int:
    """Copies of the values, and a list as long as the last position asks for."""
    return _size(a["value"]) + 2 * max([0, *_values(positions)])


_PER_SAMPLE = 12  # its position, and the indices of the pixels around it


def _resample(a: Arguments) -> int:
    return prod(_shape(a["coordinates"])[:3]) * (4 * _shape(a["x"])[1] + _PER_SAMPLE)


def _affine(a: Arguments) -> int:
    n, channels = _shape(a["x"])[:2]
    return n * int(a["output_height"]) * int(a["output_width"]) * (4 * channels + _PER_SAMPLE)


def _crop_resize(a: Arguments) -> int:
    images, channels = _shape(a["x"])[:2]
    boxes = _shape(a["boxes"])[0] if a.get("boxes") is not None else _shape(a["roi"])[0] * images
    samples = int(a.get("target_height", 1)) * int(a.get("target_width", 1))
    return samples * (2 * boxes * channels + 4 * channels + _PER_SAMPLE)


def _chosen_boxes(a: Arguments) -> int:
    scores = _shape(a["scores"])
    return scores[0] * int(a["max_boxes"]) * (5 + max(scores[1:])) + 8 * _size(a["boxes"])


def _categorical(a: Arguments) -> int:
    return 4 * (_size(a["x"]) + prod(_shape(a["x"])[:-1]) * int(a.get("size", 1)))


def _space_to_batch(a: Arguments) -> int:
    x, ends = _shape(a["x"]), _values(a["paddings"])
    return 2 * prod(x[:2]) * (x[2] + sum(ends[:2])) * (x[3] + sum(ends[2:]))


def _random(a: Arguments) -> int:
    return 2 * prod(_values(a["shape"]))


_SIZES: Mapping[str, Callable[[Arguments], int]] = {
    "tile": lambda a: _size(a["x"]) * prod(_values(a["reps"])),
    "fill": lambda a: 2 * prod(_values(a["shape"])),  # float64 until it is converted
    "range_1d": lambda a: 2 * int((float(a["end"]) - float(a["start"])) / float(a["step"])),
    "one_hot": lambda a: 2 * max(1, _size(a["indices"])) * int(a["one_hot_vector_size"]),
    "topk": lambda a: max(3 * _size(a["x"]), 2 * int(a.get("k", 1))),
    "split": lambda a: max(_size(a["x"]), int(a.get("num_splits") or 1)),
    "non_zero": lambda a: 2 * _size(a["x"]) * max(1, len(_shape(a["x"]))),
    # Their parameters lie along axes of x, and do not broadcast from its last one on.
    "layer_norm": lambda a: _size(a["x"]),
    "instance_norm": lambda a: _size(a["x"]),
    "batch_norm": lambda a: _size(a["x"]),
    "local_response_norm": lambda a: _size(a["x"]) * int(a["size"]),
    "concat": lambda a: sum(map(_size, a["values"])),
    "stack": lambda a: sum(map(_size, a["values"])),
    "reshape": lambda a: _size(a["x"]),
    "reshape_like": lambda a: _size(a["x"]),
    "flatten2d": lambda a: _size(a["x"]),
    "depth_to_space": lambda a: _size(a["x"]),
    "space_to_depth": lambda a: _size(a["x"]),
    "pixel_shuffle": lambda a: _size(a["x"]),
    "pixel_unshuffle": lambda a: _size(a["x"]),
    "write_state": lambda a: 0,
    "pad": _pad,
    "matmul": _matmul,
    "linear": lambda a: _product(_shape(a["x"]), _shape(a["weight"])[::-1]),
    "einsum": _einsum,
    "scaled_dot_product_attention": _attention,
    "conv": _conv,
    "conv_transpose": _conv_transpose,
    "max_pool": _pool,
    "avg_pool": _pool,
    "l2_pool": _pool,
    "gather": _gather,
    "gather_nd": _gather_nd,
    "gather_along_axis": lambda a: max(_size(a["indices"]), _size(a["x"])),
    "upsample_nearest_neighbor": _upsample,
    "upsample_bilinear": _upsample,
    "resize_bilinear": _resize_to,
    "resize_nearest_neighbor": _resize_to,
    "resize": _resize,
    "sliding_windows": _sliding_windows,
    "lstm": _recurrent,
    "gru": _recurrent,
    "rnn": _recurrent,
    "make_list": lambda a: 2 * int(a.get("init_length", 1)),
    "list_length": lambda a: 1,
    "list_read": lambda a: _element(a["ls"]),
    "list_gather": lambda a: 2 * _size(a["indices"]) * _element(a["ls"]),
    "list_write": lambda a: _scattered(a, a["index"]),
    "list_scatter": lambda a: _scattered(a, a["indices"]),
    "resample": _resample,
    "affine": _affine,
    "crop_resize": _crop_resize,
    "non_maximum_suppression": _chosen_boxes,
    "random_uniform": _random,
    "random_normal": _random,
    "random_bernoulli": _random,
    "random_categorical": _categorical,
    "space_to_batch": _space_to_batch,
    "conv_quantized": _conv,
    "slice_update": lambda a: 0 if "detach" in a else _size(a["x"]),  # detached: in place
}


def measure_of(operation: str, is_view: bool) -> Callable[[Arguments], int] | None:
    """Return what gives the elements that `operation` makes for its arguments, None for a view of
    its input. Where nothing else is known, inputs are broadcast together."""
    return _SIZES.get(operation, None if is_view else _broadcast)


def _conv_products(a: Arguments) -> int:
    weight = _shape(a["weight"])
    return _shape(a["x"])[0] * _windows(a, weight[2:])[1] * prod(weight)


def _pool_products(a: Arguments) -> int:
    x = _shape(a["x"])
    kernel = sizes(a["kernel_sizes"], 1, len(x) - 2)
    return prod(x[:2]) * _windows(a, kernel)[1] * prod(kernel)


def _matmul_products(a: Arguments) -> int:
    x = _shape(a["x"])
    return _matmul(a) * (x[-2] if a.get("transpose_x", False) and len(x) > 1 else x[-1])


def _attention_products(a: Arguments) -> int:
    query, key, value = (_shape(a[name]) for name in ("query", "key", "value"))
    scores = _product(query, (*key[:-2], key[-1], key[-2]))
    return scores * (query[-1] + value[-1])


def _recurrent_products(a: Arguments) -> int:
    weights = (a.get(f"weight_{n}h{back}") for n in "ih" for back in ("", "_back"))
    return prod(_shape(a["x"])[:2]) * sum(_size(w) for w in weights if w is not None)


def _compared_boxes(a: Arguments) -> int:
    """Each box that is chosen, of any class, is compared with all others."""
    count = max(_shape(a["boxes"])[1:])
    return prod(_shape(a["scores"])) * min(count, int(a["max_boxes"]))


_MULTIPLICATIONS: Mapping[str, Callable[[Arguments], int]] = {
    "matmul": _matmul_products,
    "linear": lambda a: prod(_shape(a["x"])[:-1]) * _size(a["weight"]),
    "einsum": lambda a: prod(_extents(a)[1].values()),
    "scaled_dot_product_attention": _attention_products,
    "conv": _conv_products,
    "conv_quantized": _conv_products,
    "conv_transpose": lambda a: _size(a["x"]) * prod(_shape(a["weight"])[1:]),
    "max_pool": _pool_products,
    "avg_pool": _pool_products,
    "l2_pool": _pool_products,
    "lstm": _recurrent_products,
    "gru": _recurrent_products,
    "rnn": _recurrent_products,
    "non_maximum_suppression": _compared_boxes,
}


def multiplications_of(operation: str) -> Callable[[Arguments], int] | None:
    """Return what gives the multiplications, or comparisons, that `operation` does for its
    arguments; None where they are about as many as the elements that it makes."""
    return _MULTIPLICATIONS.get(operation)
