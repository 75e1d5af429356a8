"""Compiled kernels of palettized matrices: indices and tables in, float32 out.

Callers validate arguments and raise errors. All kernels share this file because numba's cache
notices a change only in a kernel's own file.

A table of 16 values fits one vector register of 16 lanes, and processors permute the lanes of a
register by the numbers in another: one instruction looks 16 values up. LLVM finds that instruction
in "element i of the result is element index[i] of the table" if it is written for a whole vector;
from a loop it makes a load per value, a tenth as fast. So the look-up is written in LLVM's own
language, for vectors that are read off 32-bit words: each lane owns the next words of a row and
takes its values from their low bits on. The columns of a row therefore come in another order, the
arrangement of `arranged_columns`; a product does not depend on it if both factors follow it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple, TypeVar, cast

import llvmlite.binding
import numba
import numpy as np
from llvmlite import ir
from numba.extending import intrinsic
from numpy.typing import NDArray

F = TypeVar("F", bound=Callable[..., Any])
Float32 = NDArray[np.float32]
UInt8 = NDArray[np.uint8]

_CONFIG: Any = numba.config


def _has(feature: str) -> bool:
    """Whether numba compiles for processors with `feature`."""
    if _CONFIG.CPU_FEATURES is not None:
        return f"+{feature}" in _CONFIG.CPU_FEATURES.split(",")
    if _CONFIG.CPU_NAME is not None or not _CONFIG.ENABLE_AVX:
        return False
    return bool(llvmlite.binding.get_host_cpu_features().get(feature))


# The instruction that permutes the lanes of a register by the low bits of numbers in another.
LANES, _PERMUTE = 8, ""  # LLVM finds what there is
if _has("avx512f"):
    LANES, _PERMUTE = 16, "llvm.x86.avx512.permvar.sf.512"
elif _has("avx2"):
    LANES, _PERMUTE = 8, "llvm.x86.avx2.permps"
ROWS = 4  # multiplied at once: they share the loads of the vector
_LINE = 64  # bytes of a cache line
_FAST = {"contract", "reassoc", "nsz"}  # allows reordering of sums

_INT, _WORD = ir.IntType(64), ir.IntType(32)
_WORDS = ir.VectorType(_WORD, LANES)
_VALUES = ir.VectorType(ir.FloatType(), LANES)


class Layout(NamedTuple):
    """How vectors read a row of `bits`-wide values: `words` 32-bit words a lane, `values` in them;
    0 of both if no vectors are used."""

    bits: int
    words: int
    values: int

    @property
    def columns(self) -> int:
        """Columns of one block, which a vector of words per word of a lane holds."""
        return LANES * self.values


def layout_of(bits: int) -> Layout:
    """The layout of values of 1, 2, 3, 4, 6 or 8 bits. Tables of 256 do not fit the registers."""
    words = {1: 1, 2: 1, 3: 3, 4: 1, 6: 3, 8: 0}[bits]
    return Layout(bits, words, 32 * words // bits)


def arranged_columns(columns: Float32, bits: int) -> Float32:
    """`columns` (K, n) in the order in which the kernels for `bits` take a row's values."""
    layout, n = layout_of(bits), columns.shape[1]
    whole = columns.shape[0] // layout.columns * layout.columns if layout.values else 0
    arranged = np.empty(columns.shape, np.float32)
    lanes = columns[:whole].reshape(-1, LANES, max(1, layout.values), n)
    arranged[:whole].reshape(-1, max(1, layout.values), LANES, n)[...] = lanes.swapaxes(1, 2)
    arranged[whole:] = columns[whole:]
    return arranged


def filled_tables(tables: Float32) -> Float32:
    """`tables` (groups, entries), contiguous, repeated until each fills a register."""
    copies = max(1, LANES // tables.shape[1])
    return np.ascontiguousarray(np.tile(tables, copies), np.float32)


def _kernel(function: F) -> F:
    decorate = numba.njit(nogil=True, cache=True, error_model="numpy", fastmath=_FAST)
    return cast(F, decorate(function))


def _instructions(function: Callable[..., Any]) -> Any:
    """A function whose instructions `function` writes in LLVM's language."""
    return intrinsic(prefer_literal=True)(function)


def _integer(value: int) -> ir.Constant:
    return ir.Constant(_INT, value)


def _spread(value: int) -> ir.Constant:
    return ir.Constant(_WORDS, [value] * LANES)


def _vector(b: ir.IRBuilder, kind: ir.Type, address: Any, byte: int) -> Any:
    """The vector at `byte` bytes after `address`, as a pointer."""
    return b.inttoptr(b.add(address, _integer(byte)), kind.as_pointer())


def _load_words(b: ir.IRBuilder, address: Any, count: int) -> list[Any]:
    """Word 0 of all lanes, word 1, …; a lane's words lie side by side."""
    parts = [b.load(_vector(b, _WORDS, address, 4 * LANES * n), align=1) for n in range(count)]
    if count == 1:
        return parts
    words = []
    for word in range(count):
        sources = [count * lane + word for lane in range(LANES)]
        first = [source if source < 2 * LANES else 0 for source in sources]
        last = [lane if s < 2 * LANES else s - LANES for lane, s in enumerate(sources)]
        taken = b.shuffle_vector(parts[0], parts[1], ir.Constant(_WORDS, first))
        words.append(b.shuffle_vector(taken, parts[2], ir.Constant(_WORDS, last)))
    return words


def _prefetch(b: ir.IRBuilder, address: Any, count: int) -> None:
    """Ask for the memory of `_load_words`; an address that is not there does no harm."""
    pointer, name = ir.IntType(8).as_pointer(), "llvm.prefetch.p0i8"
    kind = ir.FunctionType(ir.VoidType(), [pointer, _WORD, _WORD, _WORD])
    function = b.module.globals.get(name) or ir.Function(b.module, kind, name)
    options = [ir.Constant(_WORD, n) for n in (0, 3, 1)]  # to read, often, as data
    for part in range(0, 4 * LANES * count, _LINE):
        b.call(function, [b.inttoptr(b.add(address, _integer(part)), pointer), *options])


def _index(b: ir.IRBuilder, words: list[Any], bits: int, number: int) -> Any:
    """Value `number` of each lane, with other bits above it."""
    word, shift = divmod(number * bits, 32)
    value = b.lshr(words[word], _spread(shift)) if shift else words[word]
    if shift + bits > 32:
        value = b.or_(value, b.shl(words[word + 1], _spread(32 - shift)))
    return value


def _look_up(b: ir.IRBuilder, index: Any, tables: list[Any]) -> Any:
    """Entry `index` of the table that the vectors `tables` hold, for each lane."""
    if len(tables) > 1:
        half = len(tables) // 2
        low, high = (_look_up(b, index, t) for t in (tables[:half], tables[half:]))
        is_high = b.icmp_unsigned("!=", b.and_(index, _spread(half * LANES)), _spread(0))
        return b.select(is_high, high, low)
    return _permute(b, index, tables[0])


def _permute(b: ir.IRBuilder, index: Any, table: Any) -> Any:
    """Lane `index` (its low bits) of `table`, for each lane."""
    if _PERMUTE:
        kind = ir.FunctionType(_VALUES, [_VALUES, _WORDS])
        function = b.module.globals.get(_PERMUTE) or ir.Function(b.module, kind, _PERMUTE)
        return b.call(function, [table, index])
    place = b.and_(index, _spread(LANES - 1))
    result = ir.Constant(_VALUES, ir.Undefined)
    for lane in (ir.Constant(_WORD, n) for n in range(LANES)):
        entry = b.extract_element(table, b.extract_element(place, lane))
        result = b.insert_element(result, entry, lane)
    return result


def _load_tables(b: ir.IRBuilder, address: Any, bits: int) -> list[Any]:
    count = max(1, (1 << bits) // LANES)
    return [b.load(_vector(b, _VALUES, address, 4 * LANES * n), align=4) for n in range(count)]


def _for_blocks(b: ir.IRBuilder, blocks: Any, held: list[Any], body: Callable[..., Any]) -> Any:
    """Run `body(block, held) -> held` for at least one block; return what is held at the end."""
    before, loop = b.block, b.append_basic_block("block")
    after = b.append_basic_block("after")
    b.branch(loop)
    b.position_at_end(loop)
    block = b.phi(_INT)
    block.add_incoming(_integer(0), before)
    phis = [b.phi(value.type) for value in held]
    for phi, value in zip(phis, held, strict=True):
        phi.add_incoming(value, before)
    results = body(block, phis)
    following = b.add(block, _integer(1))
    block.add_incoming(following, loop)
    for phi, result in zip(phis, results, strict=True):
        phi.add_incoming(result, loop)
    b.cbranch(b.icmp_unsigned("<", following, blocks), loop, after)
    b.position_at_end(after)
    return results


@_instructions
def _dots(  # noqa: PLR0913 — addresses and sizes of what one call reads
    _: Any, bits: Any, blocks: Any, rows: Any, ahead: Any, tables: Any, x: Any, out: Any
) -> Any:
    """Multiply `ROWS` rows with x over `blocks` ≥ 1 blocks: sums of each lane to out (ROWS, LANES).

    `rows` and `tables` hold an address for each row; these and `x` and `out` are addresses. What
    lies `ahead` bytes after a row is read next, and fetched into the cache meanwhile.
    """
    layout = layout_of(bits.literal_value)

    def generate(_: Any, b: ir.IRBuilder, __: Any, given: Any) -> Any:
        _, blocks, rows, ahead, tables, x, out = given
        at = [b.load(_vector(b, _INT, rows, 8 * n)) for n in range(ROWS)]
        held_tables = [
            _load_tables(b, b.load(_vector(b, _INT, tables, 8 * n)), layout.bits)
            for n in range(ROWS)
        ]

        def body(block: Any, sums: list[Any]) -> list[Any]:
            sums = list(sums)
            step = b.mul(block, _integer(4 * LANES * layout.words))
            starts = [b.add(row, step) for row in at]
            words = [_load_words(b, start, layout.words) for start in starts]
            for start in starts:
                _prefetch(b, b.add(start, ahead), layout.words)
            part = b.add(x, b.mul(block, _integer(4 * layout.columns)))
            for value in range(layout.values):
                factor = b.load(_vector(b, _VALUES, part, 4 * LANES * value), align=4)
                for n in range(ROWS):
                    index = _index(b, words[n], layout.bits, value)
                    entry = _look_up(b, index, held_tables[n])
                    product = b.fmul(entry, factor, flags=("contract",))
                    sums[n] = b.fadd(sums[n], product, flags=("contract",))
            return sums

        zero = ir.Constant(_VALUES, [0.0] * LANES)
        for n, total in enumerate(_for_blocks(b, blocks, [zero] * ROWS, body)):
            b.store(total, _vector(b, _VALUES, out, 4 * LANES * n), align=4)
        return _integer(0)

    i = numba.types.intp
    return numba.types.intp(bits, i, i, i, i, i, i), generate


@_instructions
def _expand(_: Any, bits: Any, blocks: Any, row: Any, table: Any, out: Any) -> Any:
    """Look `blocks` ≥ 1 blocks of a row up, arranged; all but `bits` and `blocks` are addresses."""
    layout = layout_of(bits.literal_value)

    def generate(_: Any, b: ir.IRBuilder, __: Any, given: Any) -> Any:
        _, blocks, row, table, out = given
        tables = _load_tables(b, table, layout.bits)

        def body(block: Any, held: list[Any]) -> list[Any]:
            at = b.add(row, b.mul(block, _integer(4 * LANES * layout.words)))
            words = _load_words(b, at, layout.words)
            part = b.add(out, b.mul(block, _integer(4 * layout.columns)))
            for value in range(layout.values):
                index = _index(b, words, layout.bits, value)
                entry = _look_up(b, index, tables)
                b.store(entry, _vector(b, _VALUES, part, 4 * LANES * value), align=4)
            return held

        _for_blocks(b, blocks, [], body)
        return _integer(0)

    i = numba.types.intp
    return numba.types.intp(bits, i, i, i, i), generate


class Palettized(NamedTuple):
    """A matrix: `packed` (rows, bytes) holds the indices, and row r uses table r // per_group of
    the filled `tables` (groups, entries)."""

    packed: UInt8
    tables: Float32
    per_group: int


class TableKernels(NamedTuple):
    """Kernels for indices of some width."""

    multiply: Callable[[Palettized, Float32, Float32, int, int], None]
    """(matrix, x, out, begin, end): out[r] = row r · x, x arranged."""
    expand: Callable[[Palettized, Float32, int], None]
    """(matrix, out, begin): rows begin … to out (n, columns), arranged."""


@_kernel
def _index_at(row: UInt8, column: int, bits: int) -> Any:
    """The index of a column, read by itself."""
    byte, shift = column * bits >> 3, column * bits & 7
    # A branch would be slower than a byte that is not needed.
    pair = np.int64(row[byte]) | np.int64(row[min(byte + 1, len(row) - 1)]) << 8
    return pair >> shift & ((1 << bits) - 1)


@cache
def table_kernels(bits: int) -> TableKernels:
    """The kernels for indices of 1, 2, 3, 4, 6 or 8 bits, compiled when first called."""
    if not layout_of(bits).values:
        return TableKernels(_multiply_bytes, _expand_bytes)
    return TableKernels(_make_multiply(bits), _make_expand(bits))


def _make_multiply(bits: int) -> Any:
    block = layout_of(bits).columns

    @_kernel
    def multiply(matrix: Palettized, x: Float32, out: Float32, begin: int, end: int) -> None:
        packed, tables, per_group = matrix
        blocks = len(x) // block
        sums = np.zeros((ROWS, LANES), np.float32)
        places = np.empty((2, ROWS), np.int64)
        for first in range(begin, end, ROWS):
            for n in range(ROWS):  # beyond the end, the last row again
                row = min(first + n, end - 1)
                places[0, n] = packed[row:].ctypes.data
                places[1, n] = tables[row // per_group :].ctypes.data
            if blocks:
                rows, used, next_rows = places[0], places[1], ROWS * packed.shape[1]
                held = rows.ctypes.data, used.ctypes.data
                _dots(bits, blocks, held[0], next_rows, held[1], x.ctypes.data, sums.ctypes.data)
            for row in range(first, min(first + ROWS, end)):
                total, indices, table = (
                    sums[row - first].sum(),
                    packed[row],
                    tables[row // per_group],
                )
                for column in range(blocks * block, len(x)):
                    total += table[_index_at(indices, column, bits)] * x[column]
                out[row] = total

    return multiply


def _make_expand(bits: int) -> Any:
    block = layout_of(bits).columns

    @_kernel
    def expand(matrix: Palettized, out: Float32, begin: int) -> None:
        packed, tables, per_group = matrix
        columns = out.shape[1]
        blocks = columns // block
        for n in range(len(out)):
            row, table = packed[begin + n], tables[(begin + n) // per_group]
            if blocks:
                _expand(bits, blocks, row.ctypes.data, table.ctypes.data, out[n].ctypes.data)
            for column in range(blocks * block, columns):
                out[n, column] = table[_index_at(row, column, bits)]

    return expand


@_kernel
def _multiply_bytes(matrix: Palettized, x: Float32, out: Float32, begin: int, end: int) -> None:
    for row in range(begin, end):
        table, total = matrix.tables[row // matrix.per_group], np.float32(0)
        indices = matrix.packed[row]
        for column in range(len(x)):
            total += table[indices[column]] * x[column]
        out[row] = total


@_kernel
def _expand_bytes(matrix: Palettized, out: Float32, begin: int) -> None:
    for n in range(len(out)):
        table, indices = matrix.tables[(begin + n) // matrix.per_group], matrix.packed[begin + n]
        for column in range(out.shape[1]):
            out[n, column] = table[indices[column]]
