"""Credentials of a bucket that a pool names: from a Secret, in process 1 alone."""

from collections.abc import Mapping
from typing import Any

from vernal_contract import names

KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
"""Of S3. The last one is for credentials that expire."""


def given(environment: Mapping[str, str]) -> dict[str, str]:
    """`KEYS` that a pool's Secret has, which are the environment's under names of Vernal's own."""
    found = {name: environment.get(names.ENV_OBJECT_STORE + name, "").strip() for name in KEYS}
    return {name: value for name, value in found.items() if value}


def provider(keys: Mapping[str, str]) -> Any:
    """For obstore. Not options, which would be filled up with what the environment has, such as another's session
    token.

    Raises: ValueError.
    """
    missing = [name for name in KEYS[:2] if not keys.get(name)]
    if missing:
        raise ValueError(f"the credentials have no {' and no '.join(missing)}")
    credential = {
        "access_key_id": keys[KEYS[0]],
        "secret_access_key": keys[KEYS[1]],
        "token": keys.get(KEYS[2]),
        "expires_at": None,
    }
    return lambda: credential
