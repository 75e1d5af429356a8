"""Tensors of PyTorch as the values of a program.

Numbers with axes that are floats live on the device, integers and truth values on the host: there
they are sizes, positions and indices, which would have to come back before they could be used. An
operation runs on the device if one of its tensors is there and it has a form (`TENSOR_FORMS`);
else numpy computes it, and what it gives goes back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterator
from contextlib import contextmanager
from math import prod
from typing import Any

import numpy as np
import torch

from mobile_runtime.bundle import TensorSpec
from mobile_runtime.engines.mil.arithmetic import Arguments, NumpyArithmetic, computed_type
from mobile_runtime.engines.mil.ops.state import copy_state
from mobile_runtime.engines.mil.plan import CompiledFunction, Output, Step
from mobile_runtime.engines.mil.values import StoredWeight, Weight
from mobile_runtime.errors import InputError
from mobile_runtime.mlprogram.dtypes import Array

from . import ops as _operations  # noqa: F401 — registers them
from .device import check_weights
from .forms import TENSOR_FORMS, TorchForm

# Floats are stored as halves or float32, whatever the program declares.
_TYPES = {np.dtype(n): getattr(torch, n) for n in "bool int8 int16 int32 int64 uint8".split()}
_TYPES |= {np.dtype(n): getattr(torch, n) for n in "uint16 uint32 uint64 float32".split()}
_COPIED_STATE = TorchForm(lambda input: input.clone(), frozenset(["input"]), frozenset())


class TorchArithmetic:
    """Tensors on one device. `half`: what is declared half precision is rounded to it; with
    `stores_half`, also stored and computed so. See `Arithmetic`."""

    def __init__(self, device: torch.device, half: bool, stores_half: bool) -> None:
        self.fallbacks: Counter[str] = Counter()
        self._half, self._stores_half = half, stores_half
        self._device = torch.empty(0, device=device).device  # with its number, as tensors tell it
        self._host = NumpyArithmetic(half)
        self._weights: dict[Hashable, torch.Tensor] = {}
        # Constants by identity. They are held, so that no other array gets the same one.
        self._constants: dict[int, Array] = {}
        self._uploaded: dict[int, torch.Tensor] = {}

    def prepare(self, functions: Collection[CompiledFunction]) -> None:
        """See `Arithmetic.prepare`."""
        constants = [value for function in functions for value in function.slots]
        self._constants = {id(v): v for v in constants if isinstance(v, np.ndarray)}
        sizes = {v.key: prod(v.shape) for v in constants if _is_float_weight(v)}
        check_weights(self._device, sum(sizes.values()) * (2 if self._stores_half else 4))

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Without gradients, and without the shortcuts that PyTorch takes on GPUs: products are
        not rounded to 10 bits, nor sums to half precision on their way."""
        products = torch.backends.cuda.matmul
        before = products.allow_tf32, products.allow_fp16_reduced_precision_reduction
        products.allow_tf32 = products.allow_fp16_reduced_precision_reduction = False
        cudnn = torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled, allow_tf32=False)
        try:
            with torch.inference_mode(), cudnn, self._host.computing():
                yield
        except torch.OutOfMemoryError as error:
            raise self._full(error) from error
        except InputError as error:
            if isinstance(error.__cause__, torch.OutOfMemoryError):
                raise self._full(error.__cause__) from error
            raise
        finally:
            products.allow_tf32, products.allow_fp16_reduced_precision_reduction = before

    def _full(self, error: Exception) -> InputError:
        return InputError(
            f"The memory of the device {self._device} is full ({str(error)[:80]}); close what else "
            "runs there, give smaller inputs, or use the engine mil."
        )

    def bind(
        self, step: Step, arguments: Arguments, expand: Callable[[Any], Any]
    ) -> tuple[Callable[..., Any], Arguments]:
        """See `Arithmetic.bind`."""
        if step.blocks:  # control flow passes values on
            return step.call, arguments
        form = _COPIED_STATE if step.call is copy_state else TENSOR_FORMS.get(step.operation.type)
        if form is None or not any(_is_on_device(arguments.get(name)) for name in form.tensors):
            return self._on_host(step, arguments, expand)
        bound = {
            name: _each(self._reader(form, name, expand), value)
            for name, value in arguments.items()
        }

        def call(**given: Any) -> Any:
            results = form.function(**given)
            if results is NotImplemented:
                computed, moved = self._on_host(step, dict(arguments), expand)
                return computed(**moved)
            return results

        return call, bound

    def _reader(
        self, form: TorchForm, name: str, expand: Callable[[Any], Any]
    ) -> Callable[[Any], Any]:
        """What makes an argument of `form` of a value."""
        if name in form.tensors:
            return self._tensor
        return expand if name in form.either else lambda value: expand(self._array(value))

    def _on_host(
        self, step: Step, arguments: Arguments, expand: Callable[[Any], Any]
    ) -> tuple[Callable[..., Any], Arguments]:
        if any(isinstance(one, torch.Tensor) for v in arguments.values() for one in _listed(v)):
            self.fallbacks[step.operation.type] += 1
        moved = {name: _each(self._array, value) for name, value in arguments.items()}
        return self._host.bind(step, moved, expand)

    def finish(self, result: Any, output: Output) -> Any:
        """See `Arithmetic.finish`."""
        if not isinstance(result, torch.Tensor):
            value = self._host.finish(result, output)
            is_number = isinstance(value, np.ndarray) and value.dtype.kind == "f"
            if not (is_number and value.ndim):
                return value
            return self._stored(_from_numpy(value).to(self._device), output.is_half)
        if output.dtype is None:
            return result
        if self._stores_half and output.is_half:
            return result.to(torch.float16)
        value = result.to(_TYPES[output.dtype])
        return value.half().float() if output.rounds else value

    def copy(self, value: Any) -> Any:
        """See `Arithmetic.copy`."""
        return value.clone() if isinstance(value, torch.Tensor) else self._host.copy(value)

    def overlaps(self, value: Any, region: torch.Tensor) -> bool:
        """See `Arithmetic.overlaps`."""
        if isinstance(value, torch.Tensor):
            (first, last), (begin, end) = _extent(value), _extent(region)
            return first < end and begin < last
        return region.device.type == "cpu" and self._host.overlaps(value, region.numpy())

    def memory_of(self, value: Any) -> list[tuple[Hashable, int]]:
        """See `Arithmetic.memory_of`."""
        if not isinstance(value, torch.Tensor):
            return self._host.memory_of(value)
        storage = value.untyped_storage()
        return [((storage.device, storage.data_ptr()), storage.nbytes())]

    def from_input(self, given: Array, spec: TensorSpec) -> Any:
        """See `Arithmetic.from_input`."""
        wanted = computed_type(spec)
        if wanted.kind != "f" or not given.ndim:
            return self._host.from_input(given, spec)
        tensor = _from_numpy(given.astype(wanted, copy=False)).to(self._device)
        rounds = self._half and spec.dtype == "float16"
        return self._stored(tensor.half().float() if rounds else tensor, spec.dtype == "float16")

    def _stored(self, value: torch.Tensor, is_half: bool) -> torch.Tensor:
        return value.half() if self._stores_half and is_half else value

    def zeros(self, spec: TensorSpec) -> torch.Tensor:
        """See `Arithmetic.zeros`."""
        return torch.zeros(spec.shape, dtype=self._state_type(spec), device=self._device)

    def _state_type(self, spec: TensorSpec) -> torch.dtype:
        is_half = self._stores_half and spec.dtype == "float16"
        return torch.float16 if is_half else _TYPES[np.dtype(computed_type(spec))]

    def is_state(self, value: Any, spec: TensorSpec) -> bool:
        """See `Arithmetic.is_state`."""
        if not isinstance(value, torch.Tensor) or value.device != self._device:
            return False
        return tuple(value.shape) == spec.shape and value.dtype == self._state_type(spec)

    def write_beginning(self, state: torch.Tensor, value: Array) -> None:
        """See `Arithmetic.write_beginning`."""
        state[tuple(map(slice, value.shape))] = _from_numpy(value).to(state.device, state.dtype)

    def to_array(self, value: Any) -> Any:
        """See `Arithmetic.to_array`; halves become float32."""
        return self._array(value)

    def _array(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        return (value.float() if value.dtype == torch.float16 else value).cpu().numpy()

    def _tensor(self, value: Any) -> torch.Tensor:
        if isinstance(value, torch.Tensor):
            return value
        if isinstance(value, Weight):
            if value.key not in self._weights:
                self._weights[value.key] = self._expanded(value)
            return self._weights[value.key]
        key, array = id(value), np.asarray(value)
        if key not in self._constants:
            return _from_numpy(array).to(self._device)
        if key not in self._uploaded:
            self._uploaded[key] = _from_numpy(array).to(self._device)
        return self._uploaded[key]

    def _expanded(self, weight: Weight) -> torch.Tensor:
        """The whole weight; as halves if these hold all of its values."""
        blocks = list(weight.blocks())
        whole = None
        if self._stores_half and _is_float_weight(weight):
            whole = torch.empty(weight.shape, dtype=torch.float16, device=self._device)
            for begin, end in blocks:
                rows = _from_numpy(weight.rows(begin, end)).to(self._device)
                whole[begin:end] = rows
                if not torch.equal(whole[begin:end].to(rows.dtype), rows):
                    whole = None
                    break
        if whole is None:
            kind = weight.element.computed if isinstance(weight, StoredWeight) else np.float32
            whole = torch.empty(weight.shape, dtype=_TYPES[np.dtype(kind)], device=self._device)
            for begin, end in blocks:
                whole[begin:end] = _from_numpy(weight.rows(begin, end)).to(self._device)
        return whole


def _is_float_weight(value: Any) -> bool:
    if isinstance(value, StoredWeight):
        return value.element.computed.kind == "f"
    return isinstance(value, Weight)


def _listed(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _each(function: Callable[[Any], Any], value: Any) -> Any:
    return tuple(map(function, value)) if isinstance(value, tuple) else function(value)


def _is_on_device(value: Any) -> bool:
    return any(isinstance(one, torch.Tensor) or _is_float_weight(one) for one in _listed(value))


def _from_numpy(array: Array) -> torch.Tensor:
    """A tensor, of the array's own memory where PyTorch can: it has no negative strides, and takes
    no memory that may not be written."""
    whole = np.ascontiguousarray(array).reshape(np.shape(array))
    return torch.from_numpy(whole if whole.flags.writeable else whole.copy())


def _extent(value: torch.Tensor) -> tuple[int, int]:
    """The addresses of the first byte of a tensor and of the one after its last."""
    if not value.numel():
        return 0, 0
    last = sum((n - 1) * s for n, s in zip(value.shape, value.stride(), strict=True))
    return value.data_ptr(), value.data_ptr() + (last + 1) * value.element_size()
