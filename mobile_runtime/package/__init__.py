"""Packages of anyone's, run on any system: `Package`, what a package holds, coremltools' `predict`.

A package needs no bundle around it, and this room knows no model of ours.
"""
