"""What the operator and the worker agree on, and nothing else.

The two sides share no other code: names of labels and environment variables (`names`), the configuration that a pod
hands to its worker (`config`), the schema of `GET /state` (`state`), reason codes (`reasons`) and the two hashes that
decide whether a checkpoint fits (`identity`). It imports only the standard library and msgspec, because the worker's
process 1 reads it on the path that users wait for.
"""
