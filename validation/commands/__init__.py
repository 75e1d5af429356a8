"""The commands of `python -m validation`: one module each with `HELP`, `add_arguments` and `run`.

A module imports what computes inside `run` only, so that help needs no PyTorch.
"""
