"""Bundles as models of evaluation harnesses: the field's tasks, put to the very bytes.

A module here imports its harness. So only a command imports it, when it runs, or a user's program.
"""
