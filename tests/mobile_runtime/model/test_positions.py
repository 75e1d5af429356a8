import platform

import numpy as np
import pytest

from mobile_runtime.model.positions import (
    bucket_positions,
    position_ids,
    rope_tables,
    sincos_1d,
    sincos_2d,
    sincos_time,
)

# Rows where the published rule is not floor(70 · i / n), as found in the published code on x86.
DIFFERENT = {
    25: {5: 13, 10: 27, 15: 41, 20: 55},
    49: {7: 9, 14: 19, 35: 49, 42: 59},
    50: {5: 6, 10: 13, 15: 20, 20: 27, 30: 41, 40: 55},
    55: {11: 13, 22: 27, 33: 41, 44: 55},
    58: {29: 34},
}


@pytest.mark.parametrize("n", range(1, 71))
def test_buckets_are_the_floor_except_where_published(n):
    expected = np.arange(n) * 70 // n
    for i, bucket in DIFFERENT.get(n, {}).items():
        expected[i] = bucket
    assert bucket_positions(n).tolist() == expected.tolist()


def test_buckets_equal_torch_for_every_length():
    torch = pytest.importorskip("torch", reason="compares with torch.arange and bucketize")
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("torch.arange rounds by the CPU's vector width; the rule is that of x86")
    boundaries = torch.arange(1 / 70, 1.0, 1 / 70)
    wrong = []
    for n in range(1, 1200):
        fractions = torch.arange(0, 1 - 1e-6, 1 / torch.tensor(n, dtype=torch.int32))
        reference = torch.bucketize(fractions, boundaries, right=True)
        if not np.array_equal(reference.numpy(), bucket_positions(n)):
            wrong.append(n)
    assert wrong == []


def test_buckets_follow_the_size_of_the_table():
    assert bucket_positions(4, 8).tolist() == [0, 2, 4, 6]


def test_position_ids_are_row_major():
    ids = position_ids(2, 3)
    assert ids.dtype == np.int32
    assert ids.tolist() == [0, 23, 46, 2450, 2473, 2496]


def test_sincos_of_zero_is_zeros_then_ones():
    assert sincos_1d([0], 6).tolist() == [[0, 0, 0, 1, 1, 1]]


def test_sincos_agrees_with_float64_formula():
    positions = np.arange(70)
    omega = 10000.0 ** -(np.arange(64) / 64)
    angles = positions[:, None] * omega
    expected = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    table = sincos_1d(positions, 128)
    assert table.dtype == np.float32
    np.testing.assert_allclose(table, expected, rtol=0, atol=2e-5)


def test_sincos_2d_puts_the_column_first():
    table = sincos_2d(2, 3, 16).reshape(2, 3, 16)
    for row in range(2):
        for column in range(3):
            expected = np.concatenate([sincos_1d([column], 8)[0], sincos_1d([row], 8)[0]])
            assert np.array_equal(table[row, column], expected)


def test_time_minus_one_is_no_time():
    table = sincos_time([-1, 0, 500], 8)
    assert table.dtype == np.float32
    assert not table[0].any()
    assert np.array_equal(table[1:], sincos_1d([0, 500], 8))


@pytest.mark.parametrize("head_dim", [32, 64, 128])
def test_rope_tables_agree_with_hugging_face(head_dim):
    torch = pytest.importorskip("torch", reason="compares with the published torch formula")
    theta, positions = 1e6, torch.arange(0, 4096, 7)
    exponent = torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim
    freqs = positions.float()[:, None] * (1.0 / theta**exponent)[None]
    emb = torch.cat((freqs, freqs), dim=-1)
    cos, sin = rope_tables(positions.numpy(), head_dim, theta)
    assert cos.dtype == sin.dtype == np.float32
    # One float32 step of a frequency moves an angle of 4096 by at most 4096 · 2⁻²⁴.
    np.testing.assert_allclose(cos, emb.cos(), rtol=0, atol=3e-4)
    np.testing.assert_allclose(sin, emb.sin(), rtol=0, atol=3e-4)
    assert np.isclose(cos, emb.cos().numpy(), rtol=0, atol=1e-6).mean() > 0.98


def test_rope_of_position_zero_turns_nothing():
    cos, sin = rope_tables([0], 8, 1e6)
    assert cos.tolist() == [[1] * 8] and sin.tolist() == [[0] * 8]
