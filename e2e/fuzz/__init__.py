"""Fuzzing: what others send or leave on storage, made wrong in every way that pays, against the code that reads it.

    documents   strategies: a valid document, then changed; texts and bytes of it, damaged
    limits      what one example may take (memory, processor time), and which files it may touch
    profile     how many examples, and what of hypothesis' own judgement counts
    targets     which tests belong to which target; `python -m fuzz` runs them for minutes instead of moments

A target's tests lie beside the tests of the package that they are about, as `test_fuzz_*.py`. They are hypothesis tests
without fixtures, so that pytest runs a short round of them and `python -m fuzz` as many as fit into its time.
"""
