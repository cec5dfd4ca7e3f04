"""Pure builders: from a pool's spec to the manifests of everything that it owns.

Every object carries the pool's labels and an owner reference, so that deleting the pool deletes it even while
the operator is down.
"""
