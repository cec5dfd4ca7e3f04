"""Asking a Hugging Face hub. Apart from `hub`, because it takes 20 ms to import."""

import http.client
import urllib.parse
import urllib.request
from collections.abc import Mapping

import msgspec
from vernal_contract import decoding

TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
_SECONDS = 10.0
_MOST = 64 << 20  # bytes of a hub's answer


class _Described(msgspec.Struct, frozen=True):
    """What a hub says of a revision, as far as it matters here."""

    sha: str


def commit(name: str, revision: str, environment: Mapping[str, str]) -> str:
    """What the hub says that a branch or tag of a repository stands for, a commit.

    huggingface_hub would do the same and takes half a second to import, a third of a thaw.

    Raises:
        OSError, ValueError: it does not say.
    """
    endpoint = environment.get("HF_ENDPOINT") or "https://huggingface.co"
    url = f"{endpoint.rstrip('/')}/api/models/{name}/revision/{urllib.parse.quote(revision, safe='')}"
    if not url.startswith(("https://", "http://")):
        raise ValueError(f"HF_ENDPOINT is {endpoint!r}")
    request = urllib.request.Request(url)  # noqa: S310 checked above
    if token := next((environment[name] for name in TOKENS if environment.get(name)), None):
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer:  # noqa: S310
            return decoding.json(answer.read(_MOST), _Described).sha
    except http.client.HTTPException as error:
        raise OSError(str(error) or type(error).__name__) from error
