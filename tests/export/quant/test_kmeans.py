"""The palettizer against brute force and an independent quadratic dynamic programme."""

import itertools
from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest

from export.quant.kmeans import palettize
from export.quant.kmeans_kernels import cluster
from mobile_runtime.errors import InputError

BFLOAT16 = ml_dtypes.bfloat16
TYPES = [BFLOAT16, np.float16]
Random = np.random.Generator


def partition_error(values: np.ndarray, counts: np.ndarray, ends: list[int]) -> float:
    """Squared error of a partition of weighted values, two passes in extended precision."""
    total = np.longdouble(0)
    for begin, end in itertools.pairwise(ends):
        x, w = values[begin:end].astype(np.longdouble), counts[begin:end].astype(np.longdouble)
        total += (w * (x - (w * x).sum() / w.sum()) ** 2).sum()
    return float(total)


def best_error(values: np.ndarray, counts: np.ndarray, clusters: int) -> float:
    """Least squared error of sorted distinct values, by the O(K·n²) recurrence over clusters."""
    n = values.size
    if n <= clusters:
        return 0.0
    x, w = values.astype(np.longdouble), counts.astype(np.longdouble)
    w0, w1, w2 = (np.concatenate([[0], np.cumsum(w * x**power)]) for power in range(3))
    cost = np.full((n + 1, n + 1), np.inf, np.longdouble)
    for i in range(n):
        cost[i, i + 1 :] = (w2[i + 1 :] - w2[i]) - (w1[i + 1 :] - w1[i]) ** 2 / (
            w0[i + 1 :] - w0[i]
        )
    best, choices = cost[0], []
    for _ in range(clusters - 1):
        totals = best[:, None] + cost
        choices.append(totals.argmin(axis=0))
        best = totals.min(axis=0)
    ends = [n]
    for choice in reversed(choices):
        ends.insert(0, int(choice[ends[0]]))
    return partition_error(values, counts, [0, *ends])


def brute_force_error(values: np.ndarray, counts: np.ndarray, clusters: int) -> float:
    """Least squared error over every partition into at most `clusters` intervals."""
    n = values.size
    return min(
        partition_error(values, counts, [0, *inner, n])
        for size in range(min(clusters, n))
        for inner in itertools.combinations(range(1, n), size)
    )


def distinct(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values, counts = np.unique(matrix.astype(np.float64), return_counts=True)
    return values, counts.astype(np.float64)


def squared_error(matrix: np.ndarray, dequantized: np.ndarray) -> float:
    return float(((matrix.astype(np.float64) - dequantized) ** 2).sum())


def check_group(matrix: np.ndarray, bits: int) -> None:
    """One table for the whole matrix must reach the least error, up to the table's float16."""
    values, counts = distinct(matrix)
    least = best_error(values, counts, 1 << bits)
    if values.size > 1 << bits:
        ends = cluster(values, counts, 1 << bits)
        assert ends.size == (1 << bits) + 1
        assert (np.diff(ends) > 0).all()
        assert partition_error(values, counts, ends.tolist()) <= least * (1 + 1e-9)
    dequantized = palettize(matrix, bits=bits, group_size=len(matrix), name="w").dequantize()
    # A mean moves by half a float16 step at most when it enters the table.
    rounding = np.maximum(np.abs(dequantized) * 2.0**-10, 2.0**-25)
    assert squared_error(matrix, dequantized) <= least * (1 + 1e-9) + (rounding**2).sum()


def outlier_columns(random: Random) -> np.ndarray:
    matrix = random.normal(0, 0.02, (16, 24))
    matrix[:, :2] *= 40
    return matrix


def one_huge_value(random: Random) -> np.ndarray:
    matrix = random.normal(0, 1e-3, (16, 20))
    matrix[3, 5] = random.choice([-60000.0, 60000.0])
    return matrix


def signed_zeros(random: Random) -> np.ndarray:
    return random.normal(0, 1, (8, 30)) * random.choice([0.0, -0.0, 1.0], (8, 30))


DISTRIBUTIONS: dict[str, Callable[[Random], np.ndarray]] = {
    "heavy tails": lambda random: random.standard_t(4, (16, 24)) * 0.02,
    "very heavy tails": lambda random: np.clip(random.standard_cauchy((16, 20)), -6e4, 6e4),
    "outlier columns": outlier_columns,
    "one huge value": one_huge_value,
    "signed zeros": signed_zeros,
    "uniform": lambda random: random.uniform(-1, 1, (12, 24)),
    "evenly spaced": lambda random: random.permutation(np.arange(-100.0, 100.0)).reshape(8, 25),
    "equal weights": lambda random: np.repeat(np.arange(40.0), 3).reshape(8, 15),
    "few distinct": lambda random: random.integers(-9, 9, (8, 40)) / 4,
    "two lumps": lambda random: random.normal(random.choice([-5, 5], (12, 20)), 0.1),
    "negative only": lambda random: -np.exp(random.normal(0, 2, (12, 24))),
    "far from zero": lambda random: random.normal(1000, 30, (12, 24)),
    "denormals": lambda random: random.integers(-300, 300, (12, 24)) * 2.0**-24,
}


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_error_is_the_least_possible(name: str, bits: int, dtype: type) -> None:
    for seed in range(3):
        check_group(DISTRIBUTIONS[name](np.random.default_rng(seed)).astype(dtype), bits)


@pytest.mark.parametrize("bits", [7, 8])
@pytest.mark.parametrize("name", ["heavy tails", "one huge value", "far from zero"])
def test_error_is_the_least_possible_with_large_tables(name: str, bits: int) -> None:
    check_group(DISTRIBUTIONS[name](np.random.default_rng(bits)).astype(np.float16), bits)


@pytest.mark.parametrize("bits", [1, 2, 3])
@pytest.mark.parametrize("seed", range(8))
def test_error_equals_brute_force(bits: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    values = np.unique(random.normal(0, 1, 12).astype(np.float16).astype(np.float64))
    counts = random.integers(1, 6, values.size).astype(np.float64)
    ends = cluster(values, counts, 1 << bits)
    expected = brute_force_error(values, counts, 1 << bits)
    assert partition_error(values, counts, ends.tolist()) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("clusters", range(2, 40))
def test_ties_between_numbers_of_clusters_are_resolved(clusters: int) -> None:
    """Equal gaps and weights: whole runs of cluster counts share one price."""
    values, counts = np.arange(40.0), np.ones(40)
    ends = cluster(values, counts, clusters)
    assert ends.size == clusters + 1
    sizes = np.array([40 // clusters + (i < 40 % clusters) for i in range(clusters)])
    assert partition_error(values, counts, ends.tolist()) == pytest.approx(
        (sizes * (sizes**2 - 1)).sum() / 12  # the variance of m consecutive integers
    )


@pytest.mark.parametrize("dtype", [*TYPES, np.float32])
def test_fewer_values_than_entries_are_kept_exactly(dtype: type) -> None:
    matrix = np.array([[3.0, -2.5, 3.0, 0.5]], dtype)
    weight = palettize(matrix, bits=4, group_size=1, name="w")
    assert weight.lut[0].tolist() == [-2.5, 0.5] + [3.0] * 14
    assert weight.indices().tolist() == [[2, 0, 2, 1]]


@pytest.mark.parametrize("value", [0.0, -0.0, 1.5, -65504.0, 2.0**-24])
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (4, 16)])
def test_equal_values_are_kept_exactly(value: float, shape: tuple[int, int]) -> None:
    matrix = np.full(shape, value, np.float16)
    weight = palettize(matrix, bits=3, group_size=shape[0], name="w")
    np.testing.assert_array_equal(weight.dequantize(), matrix)
    assert not weight.indices().any()


def test_bfloat16_below_float16_becomes_zero() -> None:
    matrix = np.array([[1e-30, -1e-30, 1e-40, 1.0]], BFLOAT16)
    weight = palettize(matrix, bits=2, group_size=1, name="w")
    assert weight.dequantize().tolist() == [[0.0, 0.0, 0.0, 1.0]]


def test_zeros_of_both_signs_share_an_index() -> None:
    matrix = np.array([[0.0, -0.0, 1.0, -1.0]], np.float16)
    weight = palettize(matrix, bits=2, group_size=1, name="w")
    assert weight.indices().tolist() == [[1, 1, 2, 0]]


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("dtype", [*TYPES, np.float32])
def test_every_value_takes_the_nearest_entry_of_its_group(bits: int, dtype: type) -> None:
    matrix = np.random.default_rng(bits).standard_t(4, (12, 37)).astype(dtype)
    weight = palettize(matrix, bits=bits, group_size=4, name="w")
    assert weight.lut.shape == (3, 1 << bits)
    rounded = matrix.astype(np.float16) if dtype == np.float32 else matrix
    for row in range(12):
        lut = weight.lut[row // 4].astype(np.float64)
        distance = np.abs(rounded[row].astype(np.float64)[:, None] - lut)
        actual = np.abs(rounded[row].astype(np.float64) - weight.dequantize()[row])
        np.testing.assert_array_equal(actual, distance.min(axis=1))


@pytest.mark.parametrize("group_size", [1, 2, 4, 8])
@pytest.mark.parametrize("columns", [1, 5, 8, 31])
def test_each_group_is_palettized_on_its_own(group_size: int, columns: int) -> None:
    matrix = np.random.default_rng(columns).normal(size=(8, columns)).astype(np.float16)
    weight = palettize(matrix, bits=3, group_size=group_size, name="w")
    for group in range(8 // group_size):
        rows = slice(group * group_size, (group + 1) * group_size)
        alone = palettize(matrix[rows], bits=3, group_size=group_size, name="w")
        np.testing.assert_array_equal(weight.lut[group], alone.lut[0])
        np.testing.assert_array_equal(weight.indices()[rows], alone.indices())


@pytest.mark.parametrize("columns", [5, 8])
def test_added_rows_have_index_zero_and_touch_no_table(columns: int) -> None:
    matrix = np.random.default_rng(0).normal(3, 1, (10, columns)).astype(BFLOAT16)
    weight = palettize(matrix, bits=2, group_size=4, name="w", padded_rows=16)
    assert weight.shape == (16, columns)
    assert not weight.indices()[10:].any()
    whole = palettize(matrix[:8], bits=2, group_size=4, name="w")
    rest = palettize(matrix[8:], bits=2, group_size=2, name="w")
    np.testing.assert_array_equal(weight.lut[:2], whole.lut)
    np.testing.assert_array_equal(weight.lut[2], rest.lut[0])
    np.testing.assert_array_equal(weight.rows(8, 10), rest.dequantize())
    assert not weight.lut[3].any()


@pytest.mark.parametrize("columns", [7, 64])
def test_result_does_not_depend_on_threads(columns: int) -> None:
    matrix = np.random.default_rng(1).standard_t(4, (96, columns)).astype(BFLOAT16)
    one, *others = (
        palettize(matrix, bits=4, group_size=2, name="w", threads=threads) for threads in (1, 2, 5)
    )
    for other in others:
        np.testing.assert_array_equal(one.packed, other.packed)
        np.testing.assert_array_equal(one.lut, other.lut)


def test_transposed_view_is_read_in_its_own_order() -> None:
    matrix = np.random.default_rng(2).normal(size=(24, 16)).astype(np.float16)
    view = palettize(matrix.T, bits=4, group_size=4, name="w")
    copy = palettize(matrix.T.copy(), bits=4, group_size=4, name="w")
    np.testing.assert_array_equal(view.packed, copy.packed)


@pytest.mark.parametrize("dtype", [*TYPES, np.float32])
@pytest.mark.parametrize(
    ("value", "text"), [(np.nan, "NaN"), (-np.nan, "NaN"), (np.inf, "inf"), (-np.inf, "inf")]
)
def test_row_that_is_not_finite_names_the_tensor(value: float, text: str, dtype: type) -> None:
    matrix = np.ones((8, 6), dtype)
    matrix[5, 2] = value
    with pytest.raises(InputError, match=rf"layers\.3\.weight contains {text}"):
        palettize(matrix, bits=4, group_size=2, name="layers.3.weight", threads=2)


@pytest.mark.parametrize("dtype", [BFLOAT16, np.float32])
@pytest.mark.parametrize("value", [1e5, -1e5, 65536.0])
def test_value_beyond_float16_names_the_tensor(value: float, dtype: type) -> None:
    matrix = np.ones((4, 6), dtype)
    matrix[3, 3] = value
    with pytest.raises(InputError, match=r"layers\.3\.weight contains a value of magnitude"):
        palettize(matrix, bits=4, group_size=2, name="layers.3.weight")


def test_group_size_that_does_not_divide_lists_those_that_do() -> None:
    matrix = np.zeros((44, 8), np.float16)
    with pytest.raises(InputError, match=r"fc1 has 44 rows.* of 16 .*1, 2, 4, 11, 22, 44"):
        palettize(matrix, bits=4, group_size=16, name="fc1")


@pytest.mark.parametrize(
    ("matrix", "text"),
    [
        (np.zeros(4, np.float16), "shape"),
        (np.zeros((0, 4), np.float16), "shape"),
        (np.zeros((4, 4), np.int8), "type int8"),
        (np.zeros((4, 4), np.float64), "type float64"),
    ],
)
def test_what_is_no_weight_matrix_is_refused(matrix: np.ndarray, text: str) -> None:
    with pytest.raises(InputError, match=f"w has {text}"):
        palettize(matrix, bits=4, group_size=2, name="w")


def test_impossible_width_and_fewer_rows_are_refused() -> None:
    matrix = np.zeros((4, 4), np.float16)
    with pytest.raises(InputError, match=r"w was to be quantized to 9 bits; use 1 to 8"):
        palettize(matrix, bits=9, group_size=2, name="w")
    with pytest.raises(InputError, match="pad to more rows"):
        palettize(matrix, bits=4, group_size=1, name="w", padded_rows=3)
