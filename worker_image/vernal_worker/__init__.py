"""The worker: a supervisor as process 1 that thaws, starts, freezes, serves and drains a vLLM engine.

`supervisor` decides and talks to the outside, `checkpoint` freezes and thaws a process tree whatever runs in it,
`store` keeps artifacts on shared storage, `engine` runs inside the frozen tree and imports vLLM.
"""
