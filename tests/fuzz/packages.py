"""Small packages whose descriptions say much: pictures, ranges, defaults, a classifier, states."""

import logging

import numpy as np
from PIL import Image

from mobile_runtime.errors import InputError
from mobile_runtime.package.package import Package

PICTURE = Image.new("RGB", (12, 8), (10, 20, 30))
GIVEN = {
    "pictures": {"picture": PICTURE},
    "classes": {"x": np.ones((1, 4), np.float32)},
    "states": {"x": np.ones((1, 4), np.float16)},
}


def write_packages(folder):
    """One package for each row of `GIVEN`, which is what it can be given."""
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    import coremltools as ct
    import torch

    class Brighter(torch.nn.Module):
        def forward(self, picture):
            return (picture * 2).relu()

    class Shares(torch.nn.Module):
        def forward(self, x, y):
            return (x + y).softmax(-1)

    class Total(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("total", torch.zeros(1, 4))

        def forward(self, x):
            self.total.add_(x)
            return self.total * 1

    row = torch.zeros(1, 4)
    width = ct.RangeDim(8, 16, default=12)
    shapes = ct.EnumeratedShapes([(1, 4), (1, 6)], default=(1, 4))
    state = ct.StateType(wrapped_type=ct.TensorType(shape=(1, 4), dtype=np.float16), name="total")
    models = {
        "pictures": (
            Brighter(),
            (torch.zeros(1, 3, 8, 12),),
            {
                "inputs": [ct.ImageType("picture", shape=(1, 3, 8, width), scale=1 / 255)],
                "outputs": [ct.ImageType("brighter")],
            },
        ),
        "classes": (
            Shares(),
            (row, torch.zeros(1, 1)),
            {
                "inputs": [
                    ct.TensorType("x", shape=shapes),
                    ct.TensorType("y", shape=(1, 1), default_value=np.zeros((1, 1), np.float32)),
                ],
                "classifier_config": ct.ClassifierConfig(["a", "b", "c", "d"]),
            },
        ),
        "states": (
            Total(),
            (row,),
            {"inputs": [ct.TensorType("x", shape=(1, 4), dtype=np.float16)], "states": [state]},
        ),
    }
    for name, (module, examples, options) in models.items():
        model = ct.convert(
            torch.jit.trace(module.eval(), examples),
            minimum_deployment_target=ct.target.iOS18,
            skip_model_load=True,
            **options,
        )
        model.save(str(folder / f"{name}.mlpackage"))


def predict(path, name):
    """Run the package at `path`, which was made as `name`; return why not, None if it ran."""
    try:
        package = Package(path, precision="fp32")
        state = package.make_state() if name == "states" else None
        package.predict(GIVEN[name], state)
    except InputError as error:
        return error
    return None
