"""Suites of items with exact answers, made from recipes: how well a bundle does, and whether that
differs from its checkpoint, or from another bundle, by more than chance."""
