"""Names of an artifact's parts besides GPU memory (`gpu`)."""

PROCESS = "process"
"""Directory of the frozen tree in an artifact."""

ORACLE = "oracle.json"
"""What the canary answered before the freeze (`vernal_worker.control.protocol.Canary`)."""
