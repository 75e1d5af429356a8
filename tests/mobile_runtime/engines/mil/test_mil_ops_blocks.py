"""Moving parts of sequences and of batches, and the older quantized convolution."""

from __future__ import annotations

import numpy as np
import pytest

from mobile_runtime.engines.mil import MilEngine

torch = pytest.importorskip("torch")
ct = pytest.importorskip("coremltools")
from coremltools.converters.mil import Builder as mb  # noqa: E402

RNG = np.random.default_rng(10)


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(("batch", "along"), [(0, 1), (1, 0), (2, 1)])
def test_the_beginning_of_each_sequence_is_reversed(batch, along, execute):
    x = normal(3, 4, 5)
    lengths = RNG.integers(0, x.shape[along] + 1, x.shape[batch]).astype(np.int32)
    expected = x.copy()
    for place in np.ndindex(x.shape):
        n = lengths[place[batch]]
        if place[along] < n:
            source = list(place)
            source[along] = n - 1 - place[along]
            expected[place] = x[tuple(source)]

    def build(x):
        return mb.reverse_sequence(x=x, lengths=lengths, seq_axis=along, batch_axis=batch)

    np.testing.assert_array_equal(execute("reverse_sequence", build, {"x": x})[0], expected)


def test_space_goes_to_the_batch_and_back(execute):
    """Element (row, column) of a block goes to the batch's part number row · width + column."""
    x = normal(2, 3, 3, 4)
    pads = np.int32([[1, 2], [0, 2]])

    def build(x):
        batch = mb.space_to_batch(x=x, block_shape=np.int32([2, 3]), paddings=pads)
        space = mb.batch_to_space(x=batch, block_shape=np.int32([2, 3]), crops=pads)
        return batch, space

    batch, space = execute("space_to_batch", build, {"x": x})
    np.testing.assert_array_equal(space, x)
    padded = np.pad(x, [(0, 0), (0, 0), *pads.tolist()])
    assert batch.shape == (12, 3, 3, 2)
    for row in range(2):
        for column in range(3):
            part = batch[2 * (3 * row + column) :][:2]
            np.testing.assert_array_equal(part, padded[:, :, row::2, column::3])


@pytest.mark.parametrize("per_channel", [True, False])
def test_quantized_convolution_equals_torch_on_the_weights_it_stands_for(per_channel, save):
    x = normal(1, 3, 6, 5)
    codes = RNG.integers(0, 256, (4, 3, 3, 3)).astype(np.uint8)
    scale, shift = (normal(4, 1, 1, 1), normal(4, 1, 1, 1)) if per_channel else normal(2, 1)

    def build(x):
        return mb.conv_quantized(
            x=x,
            weight=codes,
            quantization_type="linear",
            quant_scale=scale.ravel(),
            quant_bias=shift.ravel(),
            pad_type="same",
        )

    engine = MilEngine(save(build, {"x": x}), precision="fp32")
    weight = torch.from_numpy((codes * scale + shift).astype(np.float32))
    expected = torch.nn.functional.conv2d(torch.from_numpy(x), weight, padding=1).numpy()
    np.testing.assert_allclose(engine.run({"x": x})["result_0"], expected, rtol=1e-4, atol=1e-3)
