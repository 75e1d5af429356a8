"""Records what a session's packages are given and give back, for a session elsewhere to replay."""

import json

import numpy as np

import mobile_runtime.decoder
import mobile_runtime.vision


class Recorder:
    """Collects calls; `write` puts them into two files."""

    def __init__(self, manifest):
        self._names = {graph.path: graph.name for graph in manifest.graphs}
        self._calls, self._values, self._count = [], [], 0

    def install(self, monkeypatch):
        """Let the packages that are opened from here on be recorded."""
        for module in (mobile_runtime.vision, mobile_runtime.decoder):
            opened = module.open_engine
            monkeypatch.setattr(module, "open_engine", self._opener(opened))

    def _opener(self, opened):
        return lambda path, options: _Recorded(opened(path, options), self, self._names[path.name])

    def take(self, graph, function, inputs, outputs):
        """Add one call."""
        parts = {"inputs": self._arrays(inputs), "outputs": self._arrays(outputs)}
        self._calls.append({"graph": graph, "function": function, **parts})

    def _arrays(self, arrays):
        described = {}
        for name, array in arrays.items():
            described[name] = {"shape": list(array.shape), "offset": self._count}
            self._values.append(np.array(array, "<f4").ravel())
            self._count += array.size
        return described

    def write(self, calls, values):
        """Write the list of calls and the values."""
        calls.write_text(json.dumps(self._calls))
        np.concatenate(self._values).tofile(values)


class _Recorded:
    def __init__(self, engine, recorder, name):
        self._engine, self._recorder, self._name = engine, recorder, name

    def new_state(self):
        return self._engine.new_state()

    def run(self, inputs, *, function=None, state=None):
        outputs = self._engine.run(inputs, function=function, state=state)
        self._recorder.take(self._name, function, inputs, outputs)
        return outputs
