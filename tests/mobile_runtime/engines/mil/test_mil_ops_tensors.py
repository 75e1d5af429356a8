"""Products, convolutions, normalizations, poolings and resizing against PyTorch."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

torch = pytest.importorskip("torch")
ct = pytest.importorskip("coremltools")
mb = pytest.importorskip("coremltools.converters.mil").Builder
F = torch.nn.functional

RNG = np.random.default_rng(2)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def close(ours, expected, tolerance: float = 3e-6) -> None:
    expected = expected.numpy() if isinstance(expected, torch.Tensor) else expected
    assert ours.shape == expected.shape
    np.testing.assert_allclose(ours, expected, rtol=tolerance, atol=tolerance)


def t(x) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(x))


@pytest.mark.parametrize("with_bias", [True, False])
def test_linear_equals_torch(with_bias, execute):
    x, weight, bias = normal(2, 3, 8), normal(5, 8), normal(5)

    def build(x):
        return mb.linear(x=x, weight=weight, **({"bias": bias} if with_bias else {}))

    expected = F.linear(t(x), t(weight), t(bias) if with_bias else None)
    close(execute("linear", build, {"x": x})[0], expected)


MATMULS = {
    "plain": ((2, 3, 4), (2, 4, 5), False, False),
    "transposed": ((2, 4, 3), (2, 5, 4), True, True),
    "broadcast": ((3, 4), (2, 5, 4, 6), False, False),
    "grouped_query": ((1, 2, 8, 4), (1, 2, 6, 4), False, True),
}


@pytest.mark.parametrize("case", MATMULS)
def test_matmul_equals_torch(case, execute):
    x_shape, y_shape, transpose_x, transpose_y = MATMULS[case]
    x, y = normal(*x_shape), normal(*y_shape)

    def build(x, y):
        return mb.matmul(x=x, y=y, transpose_x=transpose_x, transpose_y=transpose_y)

    a = t(x).mT if transpose_x else t(x)
    b = t(y).mT if transpose_y else t(y)
    close(execute("matmul", build, {"x": x, "y": y})[0], a @ b)


@pytest.mark.parametrize("transpose_y", [False, True])
@pytest.mark.parametrize("weight_first", [False, True])
def test_matmul_with_a_weight_equals_torch(weight_first, transpose_y, execute):
    weight = normal(40, 40)
    x = normal(2, 40, 40)

    def build(x):
        pair = {"x": weight, "y": x} if weight_first else {"x": x, "y": weight}
        return mb.matmul(transpose_y=transpose_y, **pair)

    a, b = (t(weight), t(x)) if weight_first else (t(x), t(weight))
    close(execute("matmul", build, {"x": x})[0], a @ (b.mT if transpose_y else b), 2e-5)


def test_einsum_broadcasts_sizes_of_one(execute):
    x, y = normal(2, 3, 1, 5), normal(1, 5, 4, 6)

    def build(x, y):
        return mb.einsum(values=(x, y), equation="nchw,nwhu->nchu")

    expected = torch.einsum(
        "nchw,nwhu->nchu", t(x).expand(-1, -1, 4, -1), t(y).expand(2, -1, -1, -1)
    )
    close(execute("einsum", build, {"x": x, "y": y})[0], expected)


@pytest.mark.parametrize("mask", ["none", "float", "bool"])
def test_attention_equals_torch(mask, execute):
    q, k, v = normal(1, 2, 4, 8), normal(1, 2, 6, 8), normal(1, 2, 6, 8)
    keep = np.tril(np.ones((4, 6), bool), 2)

    def build(q, k, v):
        given = {} if mask == "none" else {"attn_mask": keep}
        if mask == "float":
            given = {"attn_mask": np.where(keep, 0, -1e4).astype(np.float32)}
        return mb.scaled_dot_product_attention(query=q, key=k, value=v, **given)

    ours = execute("scaled_dot_product_attention", build, {"q": q, "k": k, "v": v})[0]
    attn_mask = None if mask == "none" else t(keep)
    close(ours, F.scaled_dot_product_attention(t(q), t(k), t(v), attn_mask=attn_mask))


CONVS = {
    "pointwise": ((2, 6, 3, 4), (5, 6, 1, 1), {}),
    "pointwise_row": ((1, 6, 1, 1), (5, 6, 1, 1), {}),
    "pointwise_1d": ((2, 6, 4), (5, 6, 1), {}),
    "pointwise_strided": ((2, 6, 4, 4), (5, 6, 1, 1), {"stride": (2, 2)}),
    "kernel": ((2, 6, 7, 5), (5, 6, 3, 2), {}),
    "strided": ((2, 6, 7, 5), (5, 6, 3, 2), {"stride": (2, 1)}),
    "padded": ((1, 6, 7, 5), (5, 6, 3, 3), {"padding": (2, 1)}),
    "dilated": ((1, 6, 9, 9), (5, 6, 3, 2), {"dilation": (2, 3)}),
    "grouped": ((2, 6, 5, 5), (4, 3, 3, 3), {"groups": 2}),
    "depthwise": ((2, 6, 5, 5), (6, 1, 3, 3), {"groups": 6, "padding": (1, 1)}),
    "one_axis": ((2, 6, 9), (5, 6, 4), {"stride": (2,), "padding": (1,)}),
    "three_axes": ((1, 2, 4, 5, 6), (3, 2, 2, 3, 2), {"padding": (1, 0, 1)}),
    "patches": ((1, 3, 28, 28), (8, 3, 14, 14), {"stride": (14, 14)}),
}


@pytest.mark.parametrize("case", CONVS)
def test_conv_equals_torch(case, execute):
    x_shape, w_shape, options = CONVS[case]
    x, weight, bias = normal(*x_shape), normal(*w_shape), normal(w_shape[0])
    axes = len(w_shape) - 2

    def build(x):
        given = {"strides": options.get("stride"), "dilations": options.get("dilation")}
        given["groups"] = options.get("groups")
        if "padding" in options:
            given |= {"pad_type": "custom", "pad": np.repeat(options["padding"], 2)}
        given = {name: value for name, value in given.items() if value is not None}
        return mb.conv(x=x, weight=weight, bias=bias, **given)

    reference = (F.conv1d, F.conv2d, F.conv3d)[axes - 1]
    doubles = [t(values).double() for values in (x, weight, bias)]
    expected = reference(*doubles, **options).numpy()
    # Rounding grows with the sum of the magnitudes, not with the result.
    largest = reference(*map(torch.abs, doubles), **options).max().item()
    assert np.abs(execute("conv", build, {"x": x})[0] - expected).max() <= 1e-6 * largest


@pytest.mark.parametrize(("pad_type", "before"), [("same", 0), ("same_lower", 1)])
def test_conv_same_puts_odd_padding_on_the_named_side(pad_type, before, execute):
    x, weight = normal(1, 2, 6), normal(3, 2, 4)

    def build(x):
        return mb.conv(x=x, weight=weight, pad_type=pad_type, strides=[1])

    padded = F.pad(t(x), (1 + before, 2 - before))
    close(execute("conv", build, {"x": x})[0], F.conv1d(padded, t(weight)))


TRANSPOSED = {
    "plain": ((1, 4, 3, 5), (4, 3, 2, 3), {}),
    "strided": ((2, 4, 3, 5), (4, 3, 3, 3), {"stride": (2, 3)}),
    "padded": ((1, 4, 4, 5), (4, 3, 3, 3), {"stride": (2, 2), "padding": (1, 1)}),
    "grouped": ((1, 4, 4, 4), (4, 3, 2, 2), {"groups": 2, "stride": (2, 2)}),
    "dilated": ((1, 4, 7), (4, 2, 3), {"dilation": (2,)}),
}


@pytest.mark.parametrize("case", TRANSPOSED)
def test_conv_transpose_equals_torch(case, execute):
    x_shape, w_shape, options = TRANSPOSED[case]
    x, weight = normal(*x_shape), normal(*w_shape)
    bias = normal(w_shape[1] * options.get("groups", 1))

    def build(x):
        given = {"strides": options.get("stride"), "dilations": options.get("dilation")}
        given["groups"] = options.get("groups")
        if "padding" in options:
            given |= {"pad_type": "custom", "pad": np.repeat(options["padding"], 2)}
        given = {name: value for name, value in given.items() if value is not None}
        return mb.conv_transpose(x=x, weight=weight, bias=bias, **given)

    reference = (F.conv_transpose1d, F.conv_transpose2d)[len(w_shape) - 3]
    close(
        execute("conv_transpose", build, {"x": x})[0],
        reference(t(x), t(weight), t(bias), **options),
        1e-5,
    )


@pytest.mark.parametrize("axes", [[-1], [1], [2], [1, 2], [-1, 1]], ids=str)
def test_layer_norm_equals_torch_over_any_axes(axes, execute):
    x = normal(2, 6, 3, 4)
    order = sorted(axis % 4 for axis in axes)
    shape = [x.shape[axis] for axis in order]
    gamma, beta = normal(*shape), normal(*shape)

    def build(x):
        return mb.layer_norm(x=x, axes=order, gamma=gamma, beta=beta, epsilon=1e-6)

    moved = np.moveaxis(x, order, range(4 - len(order), 4))
    expected = F.layer_norm(t(moved), shape, t(gamma), t(beta), 1e-6).numpy()
    ours = execute("layer_norm", build, {"x": x})[0]
    close(ours, np.moveaxis(expected, range(4 - len(order), 4), order), 1e-5)


def test_layer_norm_of_mirrored_channels_is_the_rms_norm(execute):
    x = normal(1, 8, 1, 3)

    def build(x):
        both = mb.concat(values=[x, mb.mul(x=x, y=np.float32(-1))], axis=1)
        normed = mb.layer_norm(x=both, axes=[1], epsilon=1e-6)
        return mb.slice_by_size(x=normed, begin=[0, 0, 0, 0], size=[1, 8, 1, 3])

    expected = F.rms_norm(t(x).transpose(1, 3), [8], eps=1e-6).transpose(1, 3)
    close(execute("layer_norm", build, {"x": x})[0], expected, 1e-5)


def test_instance_norm_equals_torch(execute):
    x, gamma, beta = normal(2, 3, 4, 5), normal(3), normal(3)

    def build(x):
        return mb.instance_norm(x=x, gamma=gamma, beta=beta, epsilon=1e-3)

    expected = F.instance_norm(t(x), weight=t(gamma), bias=t(beta), eps=1e-3)
    close(execute("instance_norm", build, {"x": x})[0], expected, 1e-5)


def test_batch_norm_equals_torch(execute):
    x, mean, gamma, beta = normal(2, 3, 4), normal(3), normal(3), normal(3)
    variance = np.abs(normal(3)) + np.float32(0.1)

    def build(x):
        return mb.batch_norm(x=x, mean=mean, variance=variance, gamma=gamma, beta=beta)

    expected = F.batch_norm(t(x), t(mean), t(variance), t(gamma), t(beta))
    close(execute("batch_norm", build, {"x": x})[0], expected, 1e-5)


def test_l2_norm_divides_by_the_norm_of_the_last_three_axes(execute):
    x = normal(2, 3, 4, 5)
    expected = x / np.sqrt((x**2).sum((1, 2, 3), keepdims=True) + 1e-6)
    close(execute("l2_norm", lambda x: mb.l2_norm(x=x, epsilon=1e-6), {"x": x})[0], expected)


@pytest.mark.parametrize("size", [3, 5])
def test_local_response_norm_equals_torch(size, execute):
    x = normal(2, 7, 3, 3)

    def build(x):
        return mb.local_response_norm(x=x, size=size, alpha=0.5, beta=0.7, k=2.0)

    expected = F.local_response_norm(t(x), size, alpha=0.5, beta=0.7, k=2.0)
    close(execute("local_response_norm", build, {"x": x})[0], expected)


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("padding", [0, 1])
def test_max_pool_equals_torch(padding, ceil_mode, execute):
    x = normal(2, 3, 8, 7)

    def build(x):
        pads = {"pad_type": "custom", "pad": [padding] * 4}
        return mb.max_pool(x=x, kernel_sizes=[3, 3], strides=[2, 2], ceil_mode=ceil_mode, **pads)

    expected = F.max_pool2d(t(x), 3, 2, padding, ceil_mode=ceil_mode)
    close(execute("max_pool", build, {"x": x})[0], expected)


@pytest.mark.parametrize("exclude", [False, True])
@pytest.mark.parametrize("ceil_mode", [False, True])
def test_avg_pool_equals_torch(ceil_mode, exclude, execute):
    x = normal(2, 3, 8, 7)

    def build(x):
        pads = {"pad_type": "custom", "pad": [1] * 4, "exclude_padding_from_average": exclude}
        return mb.avg_pool(x=x, kernel_sizes=[3, 3], strides=[2, 2], ceil_mode=ceil_mode, **pads)

    expected = F.avg_pool2d(t(x), 3, 2, 1, ceil_mode=ceil_mode, count_include_pad=not exclude)
    close(execute("avg_pool", build, {"x": x})[0], expected)


@pytest.mark.parametrize("pad", [0, 2])
@pytest.mark.parametrize("kind", ["avg_pool", "max_pool"])
def test_a_kernel_larger_than_the_data_takes_the_data_and_no_more_memory(kind, pad, execute):
    """As torch does for the last poolings of EfficientNet, kernel 600 on a picture of 7."""
    x, kernel = normal(1, 2, 7, 5), 600

    def build(x):
        options = {"kernel_sizes": [kernel] * 2, "strides": [kernel] * 2, "ceil_mode": True}
        options |= {"pad_type": "custom", "pad": [pad] * 4}
        return mb.max_pool(x=x, **options) if kind == "max_pool" else mb.avg_pool(x=x, **options)

    tracemalloc.start()
    found = execute(kind, build, {"x": x})[0]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    pool = F.max_pool2d if kind == "max_pool" else F.avg_pool2d
    close(found, pool(t(x), kernel, kernel, pad, ceil_mode=True))
    assert peak < 2_000_000  # two padded channels alone would take 2.9 MB


def test_l2_pool_equals_torch(execute):
    x = normal(1, 2, 6, 6)

    def build(x):
        return mb.l2_pool(x=x, kernel_sizes=[2, 2], strides=[2, 2], pad_type="valid")

    close(execute("l2_pool", build, {"x": x})[0], F.lp_pool2d(t(x), 2, 2))


@pytest.mark.parametrize("align", [False, True])
def test_upsample_bilinear_equals_torch(align, execute):
    x = normal(1, 2, 4, 5)

    def build(x):
        return mb.upsample_bilinear(
            x=x, scale_factor_height=2, scale_factor_width=3, align_corners=align
        )

    expected = F.interpolate(t(x), scale_factor=(2, 3), mode="bilinear", align_corners=align)
    close(execute("upsample_bilinear", build, {"x": x})[0], expected)


def test_upsample_nearest_neighbor_equals_torch(execute):
    x = normal(1, 2, 4, 5)

    def build(x):
        return mb.upsample_nearest_neighbor(x=x, scale_factor_height=2, scale_factor_width=3)

    close(
        execute("upsample_nearest_neighbor", build, {"x": x})[0],
        F.interpolate(t(x), scale_factor=(2, 3), mode="nearest"),
    )


def test_resize_nearest_neighbor_takes_the_element_at_the_middle_as_torch_does(execute):
    x = normal(1, 2, 4, 5)

    def build(x):
        return mb.resize_nearest_neighbor(x=x, target_size_height=7, target_size_width=3)

    close(
        execute("resize_nearest_neighbor", build, {"x": x})[0],
        F.interpolate(t(x), size=(7, 3), mode="nearest-exact"),
    )


# The grid points that the operation's definition lists for [0, 1] and five outputs.
GRID = {
    "UNALIGN_CORNERS": [0, 0.1, 0.5, 0.9, 1],
    "STRICT_ALIGN_CORNERS": [0, 0.25, 0.5, 0.75, 1],
    "ALIGN_CORNERS": [0, 0.25, 0.5, 0.75, 1],
    "DEFAULT": [0, 0.4, 0.8, 1, 1],
    "OFFSET_CORNERS": [0.1, 0.3, 0.5, 0.7, 0.9],
}


@pytest.mark.parametrize("mode", GRID)
def test_resize_bilinear_samples_where_its_definition_says(mode, execute):
    x = np.float32([[[0, 1]]])

    def build(x):
        return mb.resize_bilinear(
            x=x, target_size_height=1, target_size_width=5, sampling_mode=mode
        )

    np.testing.assert_allclose(
        execute("resize_bilinear", build, {"x": x})[0][0, 0], GRID[mode], atol=1e-6
    )


def test_resize_takes_its_sizes_from_the_end_of_shape(execute):
    x = normal(1, 2, 4, 5)

    def build(x):
        return mb.resize(
            x=x,
            shape=[1, 8, 0],
            resized_dims=np.uint32(2),
            interpolation_mode="LINEAR",
            sampling_mode="UNALIGN_CORNERS",
        )

    expected = F.interpolate(t(x), size=(8, 5), mode="bilinear", align_corners=False)
    close(execute("resize", build, {"x": x})[0], expected)


@pytest.mark.parametrize("per_channel", [False, True])
def test_quantize_then_dequantize_equals_torch(per_channel, execute):
    x = normal(3, 4) * 3
    scale = np.float32([0.02, 0.05, 0.1]) if per_channel else np.float32(0.05)
    zero = np.int8([1, -2, 3]) if per_channel else np.int8(4)
    axis = {"axis": 0} if per_channel else {}

    def build(x):
        codes = mb.quantize(input=x, zero_point=zero, scale=scale, output_dtype="int8", **axis)
        return [codes, mb.dequantize(input=codes, zero_point=zero, scale=scale, **axis)]

    codes, values = execute("quantize", build, {"x": x})
    if per_channel:
        q = torch.quantize_per_channel(t(x), t(scale), t(zero).long(), 0, torch.qint8)
    else:
        q = torch.quantize_per_tensor(t(x), 0.05, 4, torch.qint8)
    assert np.array_equal(codes, q.int_repr().numpy())
    close(values, q.dequantize())
