"""`kubectl vernal`: looks at pools of vLLM workers, explains them, and asks for what an operator does by hand.

Every verb is a module in `verbs` (flags, and what is read and written) and, where it decides or lays out anything, a
pure one in `views`, which computes over objects that `read` fetched once. `cluster` alone talks to the API server.
"""
