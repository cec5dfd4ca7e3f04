"""Digests of what an engine loads: equal exactly where every byte is, and made without reading weights again."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vernal_worker.store.contents import Contents, Known
from vernal_worker.supervisor import contents
from vernal_worker.supervisor.contents import SMALL, ContentError, Digester

WEIGHTS = "model.safetensors"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "config.json").write_text('{"a": 1}')
    (directory / "chat_template.jinja").write_text("{{ a }}")
    (directory / WEIGHTS).write_bytes(os.urandom(5 * SMALL))
    return directory


@pytest.fixture
def store(tmp_path: Path) -> Path:
    (tmp_path / "store").mkdir()
    return tmp_path / "store"


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of these tests are trusted though they are new; what must change changes their times."""
    monkeypatch.setattr(contents, "_SETTLED", -60.0)


def overwrite(file: Path, position: int) -> None:
    """One bit, in place. The file's time moves on, however coarse the clock is."""
    later = file.stat().st_mtime_ns + 1_000_000_000
    with file.open("r+b") as opened:
        opened.seek(position)
        byte = opened.read(1)[0]
        opened.seek(position)
        opened.write(bytes([byte ^ 1]))
    os.utime(file, ns=(later, later))


@pytest.mark.parametrize("name", ["config.json", "chat_template.jinja"])
def test_another_content_of_equal_length_is_another_model(model: Path, name: str) -> None:
    before = Digester(None).digest(model)
    overwrite(model / name, 3)
    assert Digester(None).digest(model) != before


def test_one_bit_of_the_weights_anywhere_is_noticed(model: Path, store: Path) -> None:
    """Also with the store's records of the file as it was, and also where no sample is taken."""
    file = model / WEIGHTS
    seen = {Digester(Contents(store)).digest(model)}
    for position in (0, 100_000, 3_000_001, 5 * SMALL - 1):
        overwrite(file, position)
        seen.add(Digester(Contents(store)).digest(model))
        overwrite(file, position)
        assert Digester(Contents(store)).digest(model) in seen
    assert len(seen) == 5


def test_a_change_that_leaves_the_times_alone_is_noticed_in_the_samples(
    model: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on storage that keeps no times of its own."""
    monkeypatch.setattr(contents, "_times", lambda info: (info.st_size, 0, 0))
    before = Digester(Contents(store)).digest(model)
    overwrite(model / WEIGHTS, 1000)
    assert Digester(Contents(store)).digest(model) != before


def test_weights_that_are_known_are_not_read_again(model: Path, store: Path) -> None:
    first, second = Digester(Contents(store)), Digester(Contents(store))
    assert first.digest(model) == second.digest(model) == Digester(None).digest(model)
    assert (first.read, second.read) == (5 * SMALL, 0)
    os.utime(model / WEIGHTS)
    third = Digester(Contents(store))
    assert third.digest(model) == first.digest(model), "touched, and the same"
    assert third.read == 5 * SMALL


def test_a_file_that_was_changed_just_now_is_not_remembered(
    model: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be written to again before the clock of its times has moved on."""
    monkeypatch.setattr(contents, "_SETTLED", 3600.0)
    Digester(Contents(store)).digest(model)
    again = Digester(Contents(store))
    again.digest(model)
    assert again.read == 5 * SMALL


def test_equal_content_elsewhere_is_equal(model: Path, store: Path, tmp_path: Path) -> None:
    copy, links = tmp_path / "copy", tmp_path / "links"
    shutil.copytree(model, copy)
    links.mkdir()
    for file in model.iterdir():  # as in a download cache
        (links / file.name).symlink_to(file)
    digests = {Digester(Contents(store)).digest(directory) for directory in (model, copy, links)}
    assert len(digests) == 1


def test_books_of_download_tools_and_bytecode_do_not_count(model: Path) -> None:
    before = Digester(None).digest(model)
    for name in (".cache/book", ".gitattributes", "__pycache__/a.pyc", "a.pyc"):
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_text("x")
    assert Digester(None).digest(model) == before
    (model / "modeling.py").write_text("")
    assert Digester(None).digest(model) != before


def test_damaged_records_are_no_records(model: Path, store: Path) -> None:
    before = Digester(Contents(store)).digest(model)
    (record,) = (store / "contents").iterdir()
    record.write_bytes(b"{")
    assert Digester(Contents(store)).digest(model) == before
    shutil.rmtree(store)
    assert Digester(Contents(store)).digest(model) == before


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ContentError, match="absent"):
        Digester(None).digest(tmp_path / "absent")
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(ContentError, match="link"):
        Digester(None).digest(tmp_path)


def test_reading_can_be_given_up(model: Path) -> None:
    def stop() -> None:
        raise KeyError("told to stop")

    with pytest.raises(KeyError):
        Digester(None, stop).digest(model)


def test_file_systems_in_user_space_are_known_by_path(tmp_path: Path, store: Path) -> None:
    """Their inode numbers are made up at each mount."""
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_text("1 0 0:5 / / rw - fuse.gcsfuse bucket rw\n")
    file = tmp_path / WEIGHTS
    file.write_bytes(os.urandom(2 * SMALL))
    Digester(Contents(store), mountinfo=mountinfo).digest(file)
    info, data = file.stat(), file.read_bytes()
    key = Digester(Contents(store), mountinfo=mountinfo)._key(file, info)
    file.unlink()
    (tmp_path / "takes the number").touch()
    file.write_bytes(data)
    assert Digester(Contents(store), mountinfo=mountinfo)._key(file, info) == key
    mountinfo.write_text("1 0 0:5 / / rw - ext4 /dev/sda rw\n")
    assert Digester(Contents(store), mountinfo=mountinfo)._key(file, info) != key


@given(st.dictionaries(st.sampled_from("abc"), st.binary(max_size=3)), st.sampled_from("abc"), st.binary(max_size=3))
def test_names_and_bytes_cannot_be_mistaken_for_each_other(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes], name: str, data: bytes
) -> None:
    def digest(content: dict[str, bytes]) -> str:
        directory = tmp_path_factory.mktemp("m")
        for key, value in content.items():
            (directory / key).write_bytes(value)
        return Digester(None).digest(directory)

    assert (digest(files) == digest({**files, name: data})) == (files.get(name) == data)


def test_a_start_reads_little_of_big_weights(tmp_path: Path, store: Path, say: Callable[[str], None]) -> None:
    """4 files of 4 GB, which are holes: what counts is that the second look does not read them."""
    for number in range(4):
        with (tmp_path / f"model-{number}.safetensors").open("wb") as file:
            file.write(os.urandom(1000))
            file.truncate(4 << 30)
    digester = Digester(Contents(store))
    for number in range(4):  # as if they had been read at a freeze
        file_ = tmp_path / f"model-{number}.safetensors"
        info = file_.stat()
        with file_.open("rb") as opened:
            samples = contents._samples(opened.fileno(), info.st_size)
        Contents(store).put(digester._key(file_, info), Known(content=str(number), samples=samples))
    began = time.perf_counter()
    digester.digest(tmp_path)
    say(f"content of 16 GB, known: {(time.perf_counter() - began) * 1e3:.1f} ms")
    assert digester.read == 0
