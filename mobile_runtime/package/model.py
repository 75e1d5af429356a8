"""What every model of a package is, of whatever kind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from typing import Any

from mobile_runtime.mlprogram.description import describe_model
from mobile_runtime.mlprogram.dtypes import Array
from mobile_runtime.mlprogram.model_file import ModelFile

State = dict[str, Any]  # what the engine keeps, by name


class OpenModel(ABC):
    """A model that runs here, with the description of its root message."""

    def __init__(self, file: ModelFile, message: Any) -> None:
        self._name = file.package.name
        self.description = describe_model(message)

    @property
    def input_names(self) -> tuple[str, ...]:
        """What the default function may be given."""
        interface = self.description.interface(None, self._name)
        return tuple(feature.name for feature in interface.inputs)

    @property
    def fallbacks(self) -> Mapping[str, int]:
        """Operations that had to leave the engine's device, with how often: see `TorchEngine`."""
        return {}

    def new_state(self) -> State:
        """Zeros for every state, by name: nothing, unless a kind of model has states."""
        return {}

    def read_state(self, state: State, name: str) -> Array:
        """The array of a state; a view or a copy."""
        raise KeyError(name)

    def write_state(self, state: State, name: str, value: Array) -> None:
        """Set a state to an array of its shape."""
        raise KeyError(name)

    @abstractmethod
    def run(
        self,
        given: Mapping[str, Any],
        function: str | None = None,
        state: State | None = None,
        keep: Collection[str] = (),
    ) -> dict[str, Any]:
        """The outputs of a function by name."""
