"""The cases of rules about weights, sizes of packages, and converters, as in cases.py."""

import numpy as np
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import types

from tests.validation.doctor.cases import X, main, relu
from tests.validation.doctor.packages import given, half


def table(shape=(512, 128), groups=1, entries=16, size=1, integers=False, axis=None):
    """A palettized weight of a convolution."""
    bits = {8: "uint3", 16: "uint4", 64: "uint6", 256: "uint8"}[entries]
    rows = list(shape)
    if size > 1:
        rows[axis] //= size
    kind = types.nptype_from_builtin(types.string_to_builtin(bits))
    indices = np.zeros((*rows, 1, 1), kind)
    lut = np.ones((groups, 1, 1, 1, entries, size), np.float16)
    if integers:
        scale = np.ones((1, 1, 1, 1, 1, 1), np.float16)
        lut = mb.constexpr_blockwise_shift_scale(data=lut.astype(np.int8), scale=scale)
    options = {} if axis is None else {"vector_axis": np.int32(axis)}
    return mb.constexpr_lut_to_dense(indices=indices, lut=lut, name="bad", **options)


def layer(x, weight):
    return mb.conv(x=x, weight=weight, pad_type="valid")


def palettized(metadata=None, **options):
    shape = options.get("shape", (512, 128))
    return main(lambda x: layer(x, table(**options)), (1, shape[1], 1, 32), metadata=metadata)


def blockwise(blocks):
    def body(x):
        data = np.ones((64, 64), np.int8)
        scale = np.ones((64, blocks), np.float16)
        weight = mb.constexpr_blockwise_shift_scale(data=data, scale=scale, name="bad")
        return mb.linear(x=x, weight=weight)

    return main(body, (4, 64))


def scaled_table(scaled):
    def body(x):
        indices = np.zeros((64, 64), types.nptype_from_builtin(types.uint4))
        lut = np.ones((1, 1, 16, 1), np.float16)
        weight = mb.constexpr_lut_to_dense(indices=indices, lut=lut)
        scale = np.ones((64, 1), np.float16)
        if scaled:
            weight = mb.constexpr_blockwise_shift_scale(data=weight, scale=scale, name="bad")
        return mb.mul(x=mb.linear(x=x, weight=weight), y=scale[:, 0])

    return main(body, (4, 64))


def beside(rows, compressed=True):
    """A plain matrix, beside a larger palettized one."""

    def body(x):
        weight = mb.const(val=half(rows, 128, 1, 1), name="bad")
        first = layer(x, weight)
        if not compressed:
            return first
        indices = np.zeros((2048, 128, 1, 1), types.nptype_from_builtin(types.uint4))
        lut = np.ones((1, 1, 1, 1, 16, 1), np.float16)
        return first, layer(x, mb.constexpr_lut_to_dense(indices=indices, lut=lut))

    return main(body, (1, 128, 1, 32))


def twice(same):
    values = half(256, 128, 1, 1)
    other = values if same else values + np.float16(1)

    def body(x):
        return layer(x, mb.const(val=values)), layer(x, mb.const(val=other.copy(), name="bad"))

    return main(body, (1, 128, 1, 32))


def plain(dtype):
    kind = types.fp32 if dtype is np.float32 else types.fp16

    def body(x):
        return layer(x, mb.const(val=half(512, 128, 1, 1).astype(dtype), name="bad"))

    return main(body, (1, 128, 1, 32), dtype=kind)


def functions(compressed):
    shape = (1, 128, 1, 32)

    def body(x):
        return layer(x, table() if compressed else mb.const(val=half(512, 128, 1, 1)))

    def other(x):
        return layer(x, table())

    return {"functions": {"bad": ({"x": given(*shape)}, body), "b": ({"x": given(*shape)}, other)}}


def quantized(x):
    steps = mb.quantize(
        input=x, scale=np.float16(0.1), zero_point=np.int8(0), output_dtype="int8", name="bad"
    )
    return mb.dequantize(input=steps, scale=np.float16(0.1), zero_point=np.int8(0))


WEIGHTS = {
    "W01": (blockwise(2), blockwise(1)),
    "W02": (scaled_table(True), scaled_table(False)),
    "W03": (palettized(groups=128), palettized(groups=64)),
    "W04": (palettized(groups=64), palettized(groups=1)),
    "W05": (palettized(entries=64), palettized(entries=16)),
    "W06": (palettized(size=2, axis=1), palettized(size=2, axis=0)),
    "W07": (palettized(integers=True), palettized()),
    "W08": (beside(513), beside(512)),
    "W09": (beside(512), beside(512, compressed=False)),
    "W10": (twice(True), twice(False)),
    "W11": (palettized(entries=8), palettized(entries=16)),
    "W12": (palettized(groups=16), palettized(groups=32)),
    "W13": (plain(np.float32), plain(np.float16)),
    "W14": (functions(False), functions(True)),
    "W15": (main(quantized), main(relu)),
}


def of_size(size):
    """A package whose weight file has this many bytes."""

    def body(x):
        return layer(x, mb.const(val=half(64, 64, 1, 1)))

    return main(body, X, size=int(size))


def of_functions(count):
    return {"functions": {f"f{n}": ({"x": given(4)}, relu) for n in range(count)}}


PACKAGES = {
    "P01": (of_size(1.01e9), of_size(0.99e9)),
    "P02": (of_size(1.41e9), of_size(1.4e9)),
    "P03": (of_size(1.71e9), of_size(1.7e9)),
    "P04": (of_size(2**31), of_size(2**31 - 1)),
    "P05": (of_size(3.01e9), of_size(3e9)),
    "P06": (of_functions(129), of_functions(128)),
    "P07": (of_size(4.01e9), of_size(4e9)),
}


def by(version, source="torch==2.7.0"):
    return {"version": version, "source": source}


def forwarded(op):
    return main(lambda x: op(x=x, name="bad"))


CONVERTERS = {
    "C01": (palettized(by("9.0")), palettized(by("9.1"))),
    "C02": (
        main(relu, metadata=by("9.0", "torch==2.8.0")),
        main(relu, metadata=by("9.0", "torch==2.7.1+cpu")),
    ),
    "C03": (forwarded(mb.identity), forwarded(mb.relu)),
}
