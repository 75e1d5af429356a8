"""The targets of an export, by the name that the command line uses."""

from collections.abc import Mapping

from export.backends.base import Backend
from export.backends.coreml import CoreMLBackend
from export.backends.onnx import OnnxBackend
from export.backends.onnx.profile import FAST, PORTABLE

BACKENDS: Mapping[str, Backend] = {
    backend.name: backend for backend in (CoreMLBackend(), OnnxBackend(FAST), OnnxBackend(PORTABLE))
}
