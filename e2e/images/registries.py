"""This machine's settings for package registries, lent to a build of an image without becoming part of it.

A directory with these settings is mounted at MOUNT while the image is built; its `env` is read by the shell
of the Containerfile's RUN steps. An image holds no trace of it: neither an address, nor a proxy, nor a
certificate.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from common.tools import ToolError, run

MOUNT = "/run/vernal-build"
CA_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
_UV_INDEX = ("UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_INSECURE_HOST")


def python_index() -> dict[str, str]:
    """Environment for uv and pip that says which index to use, from pip's configuration and uv's environment.

    Empty where neither is configured: then both use their defaults.
    """
    pip = _pip_configuration()
    found = {"PIP_INDEX_URL": pip.get("index-url"), "PIP_EXTRA_INDEX_URL": pip.get("extra-index-url"),
             "PIP_TRUSTED_HOST": pip.get("trusted-host"), "PIP_PROXY": pip.get("proxy"),
             "UV_DEFAULT_INDEX": pip.get("index-url"), "UV_INDEX": pip.get("extra-index-url"),
             "UV_INSECURE_HOST": pip.get("trusted-host")}  # fmt: skip
    found |= {name: os.environ[name] for name in (*_UV_INDEX, *_PROXIES) if name in os.environ}
    return {name: value for name, value in found.items() if value}


@contextmanager
def lent_settings() -> Iterator[Path]:
    """A directory to mount at MOUNT, removed afterwards.

    Raises:
        ToolError: apt knows no Debian archive.
    """
    with TemporaryDirectory(prefix="vernal-build-") as name:
        directory = Path(name)
        ca = ca_bundle()
        (directory / "sources.list").write_text(apt_sources())
        (directory / "apt.conf").write_text(
            apt_options(f"{MOUNT}/ca.crt" if ca else None)
            + f'Dir::Etc::sourcelist "{MOUNT}/sources.list";\nDir::Etc::sourceparts "/dev/null";\n'
            + f'Dir::Etc::netrcparts "{MOUNT}/auth.conf.d";\nAcquire::Languages "none";\n'
        )
        if Path("/etc/apt/auth.conf.d").is_dir():
            shutil.copytree("/etc/apt/auth.conf.d", directory / "auth.conf.d")
        environment = {
            "APT_CONFIG": f"{MOUNT}/apt.conf",
            "DEBIAN_FRONTEND": "noninteractive",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_ROOT_USER_ACTION": "ignore",
            "UV_CACHE_DIR": f"{MOUNT}/uv",
            "UV_HTTP_TIMEOUT": os.environ.get("UV_HTTP_TIMEOUT") or "300",
            **python_index(),
        }
        if ca:
            shutil.copy(ca, directory / "ca.crt")
            environment |= {"SSL_CERT_FILE": f"{MOUNT}/ca.crt", "PIP_CERT": f"{MOUNT}/ca.crt"}
        exports = "".join(f"export {key}={shlex.quote(value)}\n" for key, value in environment.items())
        (directory / "env").write_text(exports)
        (directory / "uv").mkdir()  # where uv's cache is mounted
        yield directory


def apt_sources() -> str:
    """Debian's archives that this machine's apt is set up with, in the one-line format of sources.list(5).

    Raises:
        ToolError: there is none.
    """
    query = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME) $(COMPONENT)", "Origin: Debian"]
    try:
        if not (targets := _output(query)):
            run(["apt-get", "-q", "update"], "Check the network and apt's sources.")
            targets = _output(query)
    except (OSError, subprocess.CalledProcessError) as error:
        raise ToolError(f"{error}. Images are built from Debian's packages, on Debian.") from error
    if not targets:
        raise ToolError("apt has no source of origin Debian: add Debian's archive to /etc/apt/sources.list.d")
    return "".join(f"deb {line}\n" for line in sorted(set(targets.splitlines())))


def apt_options(ca_bundle: str | None) -> str:
    """How this machine's apt fetches (proxies, time-outs, checks) in the format of apt.conf(5)."""
    # Not its other options: paths of this machine and the hooks of its packages mean nothing elsewhere.
    wanted = re.compile(r"Acquire::(https?::|Retries |Check-|ForceIPv|By-Hash )")
    own = [line for line in _output(["apt-config", "dump"]).splitlines() if wanted.match(line) and '"/' not in line]
    return "".join(f"{line}\n" for line in own) + (f'Acquire::https::CaInfo "{ca_bundle}";\n' if ca_bundle else "")


def registry_hosts() -> set[str]:
    """The hosts that this machine's settings for apt and Python indexes name."""
    settings = [apt_sources(), *python_index().values()]
    return {host for text in settings for host in re.findall(r"://(?:[^/@\s]*@)?([^/:\s]+)", text)}


def ca_bundle() -> Path | None:
    """The certificate authorities that this machine trusts, which may include one of its own network."""
    for name in (os.environ.get("SSL_CERT_FILE"), os.environ.get("PIP_CERT"), str(CA_BUNDLE)):
        if name and Path(name).is_file():
            return Path(name)
    return None


def _pip_configuration() -> dict[str, str]:
    listing = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    )
    # Lines such as global.index-url='…'; later ones win, as in pip: the environment comes last.
    rows = re.findall(r"^(?:global|install|:env:)\.([a-z-]+)=(.*)$", listing.stdout, re.MULTILINE)
    return {key: shlex.split(value)[0] for key, value in rows if shlex.split(value)}


def _output(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
