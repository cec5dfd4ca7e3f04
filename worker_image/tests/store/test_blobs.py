"""Files that artifacts share: kept once, never trusted unread, deleted when no artifact has them."""

import errno
import os
from pathlib import Path

import pytest
from blake3 import blake3
from vernal_worker.store import blobs, collect, fs

CONTENT = os.urandom(1 << 20)
DIGESTS = [blake3(CONTENT).hexdigest()]


def put(root: Path, name: str) -> Path:
    path = root / name
    path.write_bytes(CONTENT)
    return path


def share(root: Path, name: str) -> Path:
    path = put(root, name)
    blobs.share(path, len(CONTENT), DIGESTS, root)
    return path


def test_equal_content_is_one_file(tmp_path: Path) -> None:
    first, second = share(tmp_path, "a"), share(tmp_path, "b")
    assert first.samefile(second) and second.read_bytes() == CONTENT
    assert len(list((tmp_path / "blobs").iterdir())) == 1


def test_a_broken_blob_is_replaced_and_not_shared(tmp_path: Path) -> None:
    first = share(tmp_path, "a")
    with first.open("r+b") as file:
        file.write(bytes([CONTENT[0] ^ 1]))
    second = share(tmp_path, "b")
    assert second.read_bytes() == CONTENT and not first.samefile(second)
    assert share(tmp_path, "c").samefile(second)


def test_only_blobs_without_an_artifact_go(tmp_path: Path) -> None:
    path = share(tmp_path, "a")
    [blob] = (tmp_path / "blobs").iterdir()
    assert collect.gc(tmp_path, 0) == []
    path.unlink()
    [found] = collect.gc(tmp_path, 10_000)
    assert found.path == f"blobs/{blob.name}" and found.bytes == len(CONTENT)
    assert not blob.exists()


def test_a_killed_publishers_link_does_not_keep_a_blob(tmp_path: Path) -> None:
    path = share(tmp_path, "a")
    [blob] = (tmp_path / "blobs").iterdir()
    os.link(blob, blob.with_name(f".{fs.unique()}"))
    path.unlink()
    assert collect.gc(tmp_path, 10_000) == [], "it may be alive"
    assert sum(found.bytes for found in collect.gc(tmp_path, -10)) == len(CONTENT)
    assert list((tmp_path / "blobs").iterdir()) == []


def test_more_artifacts_than_the_file_system_can_count_have_files_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = share(tmp_path, "a")

    def full(*_: object) -> None:
        raise OSError(errno.EMLINK, "Too many links")

    monkeypatch.setattr(os, "link", full)
    second = share(tmp_path, "b")
    assert second.read_bytes() == CONTENT and not first.samefile(second)


def test_no_hard_links_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    with pytest.raises(OSError, match="doctor --store"):
        share(tmp_path, "a")


def test_a_publisher_that_gives_up_does_not_read_a_large_blob_first(tmp_path: Path) -> None:
    share(tmp_path, "a")
    second = put(tmp_path, "b")

    class GivenUpError(Exception):
        pass

    def tick(_: int) -> None:
        raise GivenUpError

    with pytest.raises(GivenUpError):
        blobs.share(second, len(CONTENT), DIGESTS, tmp_path, tick)
    assert second.stat().st_nlink == 1 and second.read_bytes() == CONTENT
    assert [path for path in (tmp_path / "blobs").iterdir() if path.name.startswith(".")] == []
