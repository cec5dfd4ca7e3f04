"""The kinds of group vernal.dev: pydantic models, the CRDs generated from them, and the reference pages.

The models are the source of truth: schema, defaults, descriptions and validation rules in `crds/` come from
them.
"""
