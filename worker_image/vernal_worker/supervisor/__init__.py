"""Process 1 of a worker's container: chooses how to start, keeps the engine, answers on the admin port,
drains.

Everything that a user waits for goes through here, so nothing heavy is imported: neither torch nor vllm, and
the admin server's modules only on its own thread.
"""
