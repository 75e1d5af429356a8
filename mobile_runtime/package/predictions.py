"""coremltools' own `MLModel.predict`, answered by the interpreter, so that code written for a Mac
runs on any system."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from mobile_runtime.engines.mil import Precision
from mobile_runtime.errors import InputError
from mobile_runtime.package.package import Package, PackageState


@contextmanager
def predict_anywhere(precision: Precision = "fp16") -> Iterator[None]:
    """Within, `predict` and `make_state` of every coremltools `MLModel` run in this package's
    interpreter, not in Core ML, on any system.

    A model is opened when it is first asked, and its function is the one that it was made for.
    Raises `InputError` if coremltools is not installed, and for a model that is no package.
    """
    try:
        from coremltools.models import MLModel
    except ImportError as error:
        raise InputError(
            "coremltools is not installed, and predict_anywhere answers its models; run pip "
            "install coremltools, or open the package with mobile_runtime.Package."
        ) from error
    opened: WeakKeyDictionary[Any, Package] = WeakKeyDictionary()

    def package_of(model: Any) -> Package:
        if model not in opened:
            if not model.package_path:
                raise InputError(
                    "The model is no .mlpackage, which is what runs here; convert it to an ML "
                    "Program."
                )
            opened[model] = Package(model.package_path, precision=precision)
        return opened[model]

    def predict(self: Any, data: Any, state: PackageState | None = None) -> Any:
        return package_of(self).predict(data, state, function=self.function_name)

    def make_state(self: Any) -> PackageState:
        return package_of(self).make_state()

    replaced = MLModel.predict, MLModel.make_state
    MLModel.predict, MLModel.make_state = predict, make_state
    try:
        yield
    finally:
        MLModel.predict, MLModel.make_state = replaced
