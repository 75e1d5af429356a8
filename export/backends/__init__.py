"""The targets of an export, by the name that the command line uses."""

from collections.abc import Mapping

from export.backends.base import Backend
from export.backends.coreml import CoreMLBackend

BACKENDS: Mapping[str, Backend] = {"coreml": CoreMLBackend()}
