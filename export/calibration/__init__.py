"""Calibration: which errors of the weights matter, measured by running the model on examples.

The only room of the exporter that uses torch.
"""
