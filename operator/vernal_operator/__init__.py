"""The operator: observe a pool, plan what to do from one snapshot, act.

`api` holds the kinds, `plan` and `build` are pure, `observe` and `act` talk to the API server, `main` wires kopf.
"""
