"""For each rule a program that breaks it and one that nearly does: shapes to weights' neighbours.

A case is (bad, near): keyword arguments of `packages.write`. What a rule has to point at is called
"bad".
"""

import coremltools as ct
import numpy as np
from coremltools.converters.mil import Builder as mb

from tests.validation.doctor.packages import FLOAT, HALF, INT, given, half, state

X = (1, 64, 1, 32)


def main(body, shape=X, dtype=HALF, **options):
    """One function of an input x."""
    return {"functions": {"main": ({"x": given(*shape, dtype=dtype)}, body)}, **options}


def of(body, **inputs):
    """One function of several inputs."""
    return {"functions": {"main": (inputs, body)}}


def relu(x):
    return mb.relu(x=x, name="bad")


def ranged(name, least, most):
    """An edit that gives an input a range on its second axis."""

    def edit(message):
        for feature in message.description.input:
            if feature.name == name:
                array = feature.type.multiArrayType
                for n, size in enumerate(array.shape):
                    bounds = array.shapeRange.sizeRanges.add()
                    bounds.lowerBound = least if n == 1 else size
                    bounds.upperBound = most if n == 1 else size

    return edit


def enumerated(count):
    """An edit that gives the first input shapes."""

    def edit(message):
        array = message.description.input[0].type.multiArrayType
        for n in range(count):
            array.enumeratedShapes.shapes.add().shape.extend([1, 64, 1, n + 1])

    return edit


def unknown_axis(message):
    """The input of the program's last function has a size that varies."""
    function = message.mlProgram.functions["bad" if message.description.functions else "main"]
    function.inputs[0].type.tensorType.dimensions[1].unknown.variadic = False


def of_int64(message):
    message.mlProgram.functions["main"].inputs[0].type.tensorType.dataType = 24


def reshaped(*shape):
    return main(lambda x: mb.reshape(x=x, shape=shape, name="bad"))


def conv(*weight, shape=X, **options):
    values = half(*weight)
    return main(
        lambda x: mb.conv(x=x, weight=values, pad_type="valid", name="bad", **options), shape
    )


def norm(eps):
    return lambda x: mb.layer_norm(x=x, axes=[1], epsilon=np.float16(eps), name="bad")


def product(length):
    pair = {"x": given(1, 1, 512, length), "y": given(1, 1, 512, length)}
    return of(lambda x, y: mb.matmul(x=x, y=y, transpose_y=True, name="bad"), **pair)


SHAPES = {
    "S01": (reshaped(1, 8, 8, 1, 32), reshaped(8, 8, 1, 32)),
    "S02": (reshaped(1, 8, 8, 1, 8, 4), reshaped(1, 8, 8, 1, 32)),
    "S03": (main(relu, (1, 1, 1, 16385)), main(relu, (1, 1, 1, 16384))),
    "S04": (
        of(lambda bad: mb.reduce_max(x=bad, axes=[1]), bad=given(1, 1024, 1, 33)),
        of(lambda bad: mb.reduce_max(x=bad, axes=[1]), bad=given(1, 1024, 1, 32)),
    ),
    "S05": (conv(64, 64, 1, 1, shape=(1, 64, 1, 1)), conv(64, 64, 1, 1)),
    "S06": (
        {**of(lambda bad: mb.relu(x=bad), bad=given(*X)), "edit": ranged("bad", 1, 64)},
        {**of(lambda bad: mb.relu(x=bad), bad=given(*X)), "edit": ranged("bad", 64, 64)},
    ),
    "S07": (
        {
            "functions": {name: ({"x": given(*X)}, relu) for name in ("main", "bad")},
            "edit": unknown_axis,
        },
        main(relu, edit=unknown_axis),
    ),
    "S08": (
        {**of(lambda bad: mb.relu(x=bad), bad=given(*X)), "edit": enumerated(129)},
        {**of(lambda bad: mb.relu(x=bad), bad=given(*X)), "edit": enumerated(128)},
    ),
    "S09": (main(norm(1e-3), edit=enumerated(2)), main(norm(1e-3))),
    "S10": (product(72), product(96)),
    "S11": (conv(4, 8, 1, 1, 1, shape=(1, 8, 2, 4, 4)), conv(4, 64, 1, 1)),
    "S12": (
        main(lambda x: mb.linear(x=x, weight=half(256, 256), name="bad"), (1, 4, 256)),
        conv(256, 256, 1, 1, shape=(1, 256, 1, 4)),
    ),
    "S13": (
        of(
            lambda x, to: mb.reshape(x=x, shape=to, name="bad"),
            x=given(*X),
            to=given(2, dtype=INT),
        ),
        reshaped(64, 32),
    ),
    "S14": (
        main(
            lambda x: mb.transpose(
                x=mb.reshape(x=x, shape=(1, 8, 8, 4, 8)), perm=(0, 1, 3, 2, 4), name="bad"
            )
        ),
        main(
            lambda x: mb.transpose(
                x=mb.reshape(x=x, shape=(8, 8, 4, 8)), perm=(0, 2, 1, 3), name="bad"
            )
        ),
    ),
}


def added(value, dtype=HALF):
    kind = np.float32 if dtype is FLOAT else np.float16
    return main(lambda x: mb.add(x=x, y=kind(value), name="bad"), dtype=dtype)


def widened(last):
    """A cast to float32, then something in float32 unless it is the `last`."""

    def body(x):
        wide = mb.cast(x=x, dtype="fp32", name="bad")
        return wide if last else mb.cast(x=mb.relu(x=wide), dtype="fp16")

    return main(body)


def mean_of_squares(square):
    return main(lambda x: mb.reduce_mean(x=square(x), axes=[1], keep_dims=True))


def scaled_norm(scaled):
    def body(x):
        largest = mb.reduce_max(x=mb.abs(x=x), axes=[1], keep_dims=True)
        squares = mb.square(x=mb.real_div(x=x, y=largest) if scaled else x, name="bad")
        return mb.add(x=mb.reduce_mean(x=squares, axes=[1], keep_dims=True), y=np.float16(1e-5))

    return main(body)


def root(eps):
    small = np.float16(1e-12)
    return main(lambda x: mb.rsqrt(x=mb.add(x=x, y=np.float16(eps)), epsilon=small, name="bad"))


def log_exp(argument):
    one = np.float16(1)
    return main(lambda x: mb.log(x=mb.add(x=mb.exp(x=argument(x)), y=one), name="bad"))


NUMBERS = {
    "N01": (main(relu, dtype=FLOAT), main(relu)),
    "N02": (widened(last=False), widened(last=True)),
    "N03": (
        {**of(lambda bad: mb.cast(x=bad, dtype="fp16"), bad=given(4, dtype=INT)), "edit": of_int64},
        of(lambda bad: mb.cast(x=bad, dtype="fp16"), bad=given(4, dtype=INT)),
    ),
    "N04": (added(-np.inf), added(-1e4)),
    "N05": (added(-1e9, FLOAT), added(-65504, FLOAT)),
    "N06": (
        mean_of_squares(lambda x: mb.square(x=x, name="bad")),
        mean_of_squares(lambda x: mb.mul(x=x, y=np.float16(2), name="bad")),
    ),
    "N07": (scaled_norm(True), scaled_norm(False)),
    "N08": (root(1e-6), root(1e-3)),
    "N09": (main(norm(1e-8)), main(norm(1e-6))),
    "N10": (main(norm(1e-6)), main(norm(1e-5))),
    "N11": (main(lambda x: mb.softplus(x=x, name="bad")), main(relu)),
    "N12": (
        log_exp(lambda x: x),
        log_exp(lambda x: mb.mul(x=mb.abs(x=x), y=np.float16(-1))),
    ),
    "N13": (added(np.nan), added(0)),
}


def picked(op, indices):
    return of(
        lambda x, i: op(x=x, indices=i if indices is None else indices, name="bad"),
        x=given(8, 4),
        i=given(2, 1, dtype=INT),
    )


def embedding(rows):
    table = half(rows, 4)
    return of(
        lambda i: mb.gather(x=table, indices=i, axis=0, name="bad"),
        i=given(2, dtype=INT),
    )


def expanded(follower):
    return main(lambda x: follower(mb.expand_dims(x=x, axes=[0], name="bad")), (4, 8))


def resized(op, factor):
    return main(
        lambda x: op(x=x, scale_factor_height=factor, scale_factor_width=factor, name="bad"),
        (1, 4, 8, 8),
    )


def sliced(begin):
    return of(
        lambda x, at: mb.slice_by_size(
            x=x, begin=at if begin is None else begin, size=[4], name="bad"
        ),
        x=given(8),
        at=given(1, dtype=INT),
    )


PAIR = np.array([[0], [1]], np.int32)
OPERATIONS = {
    "O01": (
        main(lambda x: mb.topk(x=x, k=2, axis=1, name="bad")[0]),
        main(lambda x: mb.reduce_max(x=x, axes=[1], name="bad")),
    ),
    "O02": (
        of(
            lambda x, i: mb.gather_along_axis(x=x, indices=i, axis=0, name="bad"),
            x=given(8, 4),
            i=given(2, 4, dtype=INT),
        ),
        picked(mb.gather, None),
    ),
    "O03": (picked(mb.gather, None), picked(mb.gather, PAIR)),
    "O04": (picked(mb.gather_nd, None), picked(mb.gather_nd, PAIR)),
    "O05": (
        of(
            lambda x, i, u: mb.scatter(data=x, indices=i, updates=u, name="bad"),
            x=given(8, 4),
            i=given(2, dtype=INT),
            u=given(2, 4),
        ),
        of(
            lambda x, u: mb.slice_update(x=x, update=u, begin=[0, 0], end=[2, 4], name="bad"),
            x=given(8, 4),
            u=given(2, 4),
        ),
    ),
    "O06": (
        conv(8, 8, 3, 3, shape=(1, 8, 9, 9), dilations=[2, 2]),
        conv(8, 8, 3, 3, shape=(1, 8, 9, 9), dilations=[1, 1]),
    ),
    "O07": (sliced(None), sliced([1])),
    "O08": (expanded(lambda x: mb.topk(x=x, k=2, axis=1)[0]), expanded(lambda x: mb.relu(x=x))),
    "O09": (
        main(lambda x: mb.reduce_argmax(x=x, axis=1, name="bad")),
        main(lambda x: mb.reduce_max(x=x, axes=[1], name="bad")),
    ),
    "O10": (embedding(16385), embedding(16384)),
    "O11": (
        main(lambda x: mb.cos(x=mb.mul(x=x, y=half(1, 1, 1, 32)), name="bad")),
        main(lambda x: mb.cos(x=x, name="bad")),
    ),
    "O12": (
        resized(mb.upsample_nearest_neighbor, 1.7),
        resized(mb.upsample_nearest_neighbor, 2.0),
    ),
    "O13": (resized(mb.upsample_bilinear, 0.5), resized(mb.upsample_bilinear, 2.0)),
}


def fused(batch=1, target=ct.target.iOS18):
    shape = (batch, 2, 4, 8)
    made = of(
        lambda q, k, v: mb.scaled_dot_product_attention(query=q, key=k, value=v, name="bad"),
        **{name: given(*shape) for name in "qkv"},
    )
    return {**made, "target": target}


def repeated(reps):
    def body(q, k):
        keys = mb.tile(x=k, reps=[1, 4, 1, 1]) if reps else mb.relu(x=k)
        return mb.matmul(x=q, y=keys, transpose_y=True, name="bad")

    return of(body, q=given(1, 8, 4, 32), k=given(1, 2 if reps else 8, 16, 32))


def attended(context):
    def body(h, k, m):
        q = mb.reshape(x=h, shape=(1, 4, 1, 32))
        scores = mb.add(x=mb.matmul(x=q, y=k, transpose_y=True), y=m)
        return mb.softmax(x=scores, axis=-1, name="bad")

    return of(body, h=given(1, 128, 1, 1), k=given(1, 4, context, 32), m=given(1, 1, 1, context))


ATTENTION = {
    "A01": (fused(), repeated(False)),
    "A02": (fused(10), fused(9)),
    "A03": (fused(target=ct.target.iOS26), fused()),
    "A04": (repeated(True), repeated(False)),
    "A05": (attended(2048), attended(1024)),
}

CACHE = (2, 4, 64, 32)


def many(count, written=True):
    """Writes each of several states."""

    def body(x, **states):
        for value in states.values():
            if written:
                mb.coreml_update_state(state=value, value=mb.relu(x=mb.read_state(input=value)))
        return mb.relu(x=x)

    names = ["bad", "second", "third"][:count]
    return of(body, x=given(*X), **{name: state(*CACHE) for name in names})


def state_of_float32(message):
    """coremltools writes no such state, but a file may have it."""
    for value in message.mlProgram.functions["main"].inputs:
        if value.type.WhichOneof("type") == "stateType":
            value.type.stateType.wrappedType.tensorType.dataType = 11


def kept(*shape, **options):
    def body(x, bad):
        value = mb.read_state(input=bad)
        mb.coreml_update_state(state=bad, value=mb.relu(x=value))
        return mb.relu(x=x)

    return {**of(body, x=given(*X), bad=state(*shape)), **options}


def cached(length=1, written=True, joined=False):
    """Writes new rows into a cache, at a place or by shifting it."""

    def body(x, bad):
        value = mb.read_state(input=bad)
        if joined:
            past = mb.slice_by_index(x=value, begin=[0, 0, length, 0], end=list(CACHE))
            value = mb.concat(values=[past, x], axis=2)
        else:
            value = mb.slice_update(
                x=value, update=x, begin=[0, 0, 3, 0], end=[2, 4, 3 + length, 32], name="bad"
            )
        if written:
            value = mb.coreml_update_state(state=bad, value=value, name="bad")
        return mb.slice_by_index(x=value, begin=[0, 0, 0, 0], end=[1, 4, 64, 32])

    return of(body, x=given(2, 4, length, 32), bad=state(*CACHE))


def grown(most):
    made = of(lambda past_key: mb.relu(x=past_key), past_key=given(*X))
    return {**made, "edit": ranged("past_key", 1, most)}


def of_version(number):
    def edit(message):
        message.specificationVersion = number

    return edit


def only_read(x, bad):
    return mb.add(x=x, y=mb.read_state(input=bad))


STATES = {
    "K01": (many(3), many(2)),
    "K02": (kept(1, 4, 33, 32), kept(1, 4, 64, 32)),
    "K03": (kept(*CACHE, edit=state_of_float32), kept(*CACHE)),
    "K04": (kept(1, *CACHE), kept(*CACHE)),
    "K05": (cached(written=False), cached()),
    "K06": (of(only_read, x=given(*CACHE), bad=state(*CACHE)), kept(*CACHE)),
    "K07": (cached(joined=True), cached()),
    "K08": (grown(2048), grown(2047)),
    "K09": (kept(*CACHE, edit=of_version(8)), kept(*CACHE)),
    "K10": (cached(1), cached(2)),
    "K11": (kept(*CACHE), main(relu)),
}
