"""The adapter store: where runs leave their results, and the checks that stand between stored bytes and an engine.

Imports the contract only. `store` and `run_folder` need nothing heavier than fsspec, so the operator can read
results without the libraries that checking and signing need.
"""
