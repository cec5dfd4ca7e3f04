"""Checkpoints in a bucket (S3, GCS, Azure Blob Storage): the artifacts of a store, content-addressed.

A bucket is no file system: nothing is renamed or linked, and an object is written whole or not at all. So a file is
kept as its pieces, each one object named by its digest, which any number of artifacts share; what an artifact is made
of is its manifest, byte for byte that of the store; and the one object that changes, the pointer to the current
generation, is only ever written on condition that it is still what was read. No upload has parts, so none can be left
half done.
"""
