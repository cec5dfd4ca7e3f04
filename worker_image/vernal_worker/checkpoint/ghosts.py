"""Files without a name that a tree has mapped or open, and that come back in a place of the pod's own.

CRIU takes the content of such a file into the image, a ghost, and a restore makes the file where it once was, maps
it, and removes it. On a volume that is the same place for all pods: thaws at the same moment make and remove each
other's. A compile cache is such a volume: another engine may write a file once more that this one has mapped.
https://criu.org/Invisible_files, images/fdinfo.proto, regfile.proto and remap-file-path.proto.
"""

from collections.abc import Callable
from pathlib import Path

from vernal_worker.checkpoint import wire
from vernal_worker.checkpoint.carry import SHM

_FILES, _REMAPS = ("files.img", 0x56303138), ("remap-fpath.img", 0x59133954)
_FILE_REGULAR = 3  # numbers of fields, here and below
_REGULAR_ID, _REGULAR_NAME = 1, 6
_REMAP_FILE, _REMAP_GHOST, _REMAP_KIND = 1, 2, 3
_GHOST = 1


def move(images: Path, shared: Callable[[str], bool]) -> None:
    """Let ghosts come back in /dev/shm whose place, by `shared`, other pods have as well.

    Images that are not as expected are left as they are. Raises: OSError.
    """
    files, magic = images / _FILES[0], _FILES[1]
    try:
        remaps = [wire.integers(message) for message in wire.messages((images / _REMAPS[0]).read_bytes(), _REMAPS[1])]
        found = wire.messages(files.read_bytes(), magic)
        ghosts = {each[_REMAP_FILE]: each[_REMAP_GHOST] for each in remaps if each[_REMAP_KIND] == _GHOST}

        def regular(message: bytes) -> bytes:
            known = dict(wire.fields(message))
            name, number = known[_REGULAR_NAME], known[_REGULAR_ID]
            if number not in ghosts or not isinstance(name, bytes) or not shared(name.decode(errors="replace")):
                return message
            new = f"{SHM}/vernal-ghost-{ghosts[number]}".encode()  # one file may be open under several numbers
            return _changed(message, _REGULAR_NAME, lambda _: new)

        changed = [_changed(message, _FILE_REGULAR, regular) for message in found]
    except (wire.UnknownFormatError, FileNotFoundError, KeyError):
        return  # without ghosts there is no such image
    if changed != found:
        files.write_bytes(wire.image(magic, changed))


def _changed(message: bytes, number: int, change: Callable[[bytes], bytes]) -> bytes:
    """With another value of one field, which holds bytes."""
    parts = []
    for each, value in wire.fields(message):
        parts.append(wire.field(each, change(value) if each == number and isinstance(value, bytes) else value))
    return b"".join(parts)
