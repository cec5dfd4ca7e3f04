"""Writes: what a plan decided, carried out."""
