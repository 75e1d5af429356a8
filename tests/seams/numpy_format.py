"""A third format, to see that one can be registered from outside: graphs as recorded operations in
JSON, weights in npz, run by numpy. It reuses the graphs and the drivers of static shapes."""

import json
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from export.graphs.graph import Parameter
from export.graphs.static.layout import static_decoding, static_layout
from export.quant.recipe import FLOAT16, FLOAT32, QuantSpec
from export.quant.recipes import Precisions
from mobile_runtime.engines.states import write_beginning
from mobile_runtime.model.formats import FORMATS

NAME = "numpy"


class Result(int):
    """The number of an operation, told from other integers."""


class Recorder:
    """Notes every operation of a body; inputs are their names."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, operation):
        if operation.startswith("__"):
            raise AttributeError(operation)
        return lambda *arguments: self._note(operation, arguments)

    def linears(self, x, layers):
        return [self.linear(x, *layer) for layer in layers]

    def scaled(self, q, k, scale):
        return self._note("times", [q, scale]), k

    def _note(self, operation, arguments):
        self.calls.append([operation, [self._written(argument) for argument in arguments]])
        return Result(len(self.calls) - 1)

    def _written(self, value):
        if isinstance(value, Parameter):
            return {"weight": value.name}
        if isinstance(value, Result):
            return {"result": int(value)}
        if isinstance(value, str):
            return {"input": value}
        return [self._written(v) for v in value] if isinstance(value, list | tuple) else value


class NumpyBackend:
    """Implements `export.backends.base.Backend`."""

    name, suffix, platforms, card_section = NAME, ".numpy", "numpy", ""
    precisions = Precisions(
        named={"none": FLOAT32, "fp16": FLOAT16, "int8": QuantSpec("rows", 8)},
        recipes={"none": {"embed_tokens": "fp16"}, "int8": {"decoder": "int8", "lm_head": "int8"}},
        floats=FLOAT32,
        by_rows=frozenset(),
    )
    forms = frozenset({"rows", "floats"})
    max_package_bytes = 1 << 40
    allows_hard_links = True
    fuses_inputs = False
    host_tables = True
    kv_caches = MappingProxyType({"state": "the engine keeps it", "io": "the host passes it in"})
    default_kv_cache = "state"

    def decoding(self, config, model):
        return static_decoding(config, model)

    def layout(self, bodies, model, preprocessing, decoding):
        return static_layout(bodies, model, preprocessing, decoding)

    def weight_bytes(self, path):
        return (path / "weights.npz").stat().st_size

    def convert(self, graph, specs, weights, path):
        path.mkdir(parents=True)
        np.savez(path / "weights.npz", **{p.name: w.dequantize() for p, w in weights})
        functions = {}
        for function in graph.functions:
            ops = Recorder()
            names = [spec.name for spec in (*function.inputs, *graph.states)]
            outputs = function.body(ops, {name: name for name in names})
            functions[function.name] = {
                "calls": ops.calls,
                "outputs": {name: int(result) for name, result in outputs.items()},
            }
        states = {state.name: state.shape for state in graph.states}
        described = {"functions": functions, "states": states}
        (path / "graph.json").write_text(json.dumps(described), encoding="utf-8")

    def write_extras(self, graphs, specs, manifest, folder, text_type):
        pass

    def check_installed(self):
        pass

    def versions(self):
        return {}


class NumpyEngine:
    """Implements `mobile_runtime.engines.Engine`. Activations are (1, channels, 1, length)."""

    def __init__(self, path):
        self._graph = json.loads((path / "graph.json").read_text(encoding="utf-8"))
        self._weights = dict(np.load(path / "weights.npz"))

    def new_state(self, length=0):
        return {n: np.zeros(shape, np.float32) for n, shape in self._graph["states"].items()}

    def read_state(self, state, name):
        return state[name]

    def write_state(self, state, name, value):
        write_beginning(state[name], value)

    def run(self, inputs, *, function=None, state=None):
        chosen = self._graph["functions"][function or "main"]
        given = {n: np.asarray(v) for n, v in inputs.items()} | (state or {})
        results = []

        def read(value):
            if isinstance(value, list):
                return [read(item) for item in value]
            if not isinstance(value, dict):
                return value
            ((kind, key),) = value.items()
            return {"weight": self._weights, "input": given, "result": results}[kind][key]

        for operation, arguments in chosen["calls"]:
            results.append(getattr(Arithmetic, operation)(*map(read, arguments)))
        return {name: results[number] for name, number in chosen["outputs"].items()}


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


class Arithmetic:
    """`export.graphs.graph.CacheOps` on arrays."""

    @staticmethod
    def linear(x, weight, bias=None):
        out = weight @ x[0, :, 0]
        return (out if bias is None else out + bias[:, None])[None, :, None]

    @staticmethod
    def add(x, y):
        return x + y

    @staticmethod
    def multiply(x, y):
        return x * y

    @staticmethod
    def times(x, factor):
        return x * np.float32(factor)

    @staticmethod
    def silu(x):
        return x / (1 + np.exp(-x))

    @staticmethod
    def gelu_tanh(x):
        return x * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3))) / 2

    @staticmethod
    def layer_norm(x, weight, bias, eps):
        centred = x - x.mean(1, keepdims=True)
        normed = centred / np.sqrt((centred**2).mean(1, keepdims=True) + eps)
        return normed * weight[:, None, None] + bias[:, None, None]

    @staticmethod
    def rms_norm(x, weight, eps):
        return x / np.sqrt((x**2).mean(1, keepdims=True) + eps) * weight[:, None, None]

    @staticmethod
    def head_rms_norm(x, weight, eps):
        return x / np.sqrt((x**2).mean(2, keepdims=True) + eps) * weight[:, None]

    @staticmethod
    def heads(x, count):
        return x.reshape(1, count, -1, x.shape[-1])

    @staticmethod
    def rope(x, cos, sin):
        first, second = np.split(x, 2, axis=2)
        return x * cos + np.concatenate([-second, first], axis=2) * sin

    @staticmethod
    def to_rows(x):
        return x.swapaxes(2, 3)

    @staticmethod
    def attend(q, k, v, mask, scale):
        return Arithmetic._weigh(scale * (q.swapaxes(2, 3) @ k) + mask, v)

    @staticmethod
    def weighted_values(scores, values, count):
        return Arithmetic._weigh(
            scores.reshape(1, count, -1, scores.shape[-1]), Arithmetic.heads(values, count)
        )

    @staticmethod
    def _weigh(scores, values):
        out = values @ softmax(scores).swapaxes(2, 3)
        return out.reshape(1, -1, 1, out.shape[-1])

    @staticmethod
    def grouped_mask(mask, groups):
        return mask

    @staticmethod
    def write_cache(state, rows, index, position):
        begin = int(position[0])
        state[index, :, begin : begin + rows.shape[2]] = rows[0]
        return state[index : index + 1]

    @staticmethod
    def cache_row(cache, index):
        return cache[index : index + 1]

    @staticmethod
    def grouped_attention(q, keys, values, mask):
        keys, values = np.concatenate(keys, axis=2), np.concatenate(values, axis=2)
        groups = q.shape[1] // keys.shape[1]
        keys, values = keys.repeat(groups, axis=1), values.repeat(groups, axis=1)
        attended = softmax((keys @ q).swapaxes(2, 3) + mask) @ values
        return attended.swapaxes(2, 3).reshape(1, -1, 1, q.shape[-1])

    @staticmethod
    def stack_rows(rows):
        return np.concatenate(rows)


FORMAT = replace(FORMATS["coreml"], engines=(NAME,))


def open_engine(path, options):
    return NumpyEngine(path)
