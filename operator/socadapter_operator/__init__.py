"""The control plane: a pure planner, the backends that carry its plans out, and the loops that drive both.

`domain/` decides and touches nothing. `backends/` start and watch processes. `local/` drives them on one machine.
Imports the contract and the store; never torch, ray or anything that runs a model.
"""
