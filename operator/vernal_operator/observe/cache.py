"""What an informer has seen of one kind, with own writes mixed in.

The answer to an own write is an observation like any other, and often an earlier one than the watch's. Which
of two observations is newer is told by resourceVersion, which Kubernetes defines as a number that grows
within a kind (KEP-5504). So the cache never goes back behind an own write, and an object that was deleted
before the answer to its creation came in is not brought back.
"""

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")
K = TypeVar("K")


@dataclass(frozen=True, slots=True)
class Entry(Generic[T]):
    """One object, reduced to what is needed.

    Attributes:
        version: metadata.resourceVersion as a number.
        group: what `Cache.group` finds it by, within its namespace; e.g. the pool that it is labelled with.
        owner: uid of its controller, "" without one.
        view: the rest.
    """

    namespace: str
    name: str
    uid: str
    version: int
    group: str
    owner: str
    view: T


Listener = Callable[[Entry[T] | None, Entry[T] | None], None]
"""Called after each change, in the thread that saw it, with the old and the new entry; None for absent."""


class Cache(Generic[T]):
    """Entries by namespace and name, by namespace, and by group. Thread-safe."""

    def __init__(self, on_change: Listener[T]) -> None:
        self._on_change = on_change
        self._lock = threading.Lock()
        self._groups: dict[tuple[str, str], dict[str, Entry[T]]] = {}
        self._by_name: dict[tuple[str, str], Entry[T]] = {}
        self._namespaces: dict[str, dict[str, Entry[T]]] = {}
        self._seen_up_to = 0  # resourceVersion that the watch has reached

    # -- reading ---

    def get(self, namespace: str, name: str) -> Entry[T] | None:
        with self._lock:
            return self._by_name.get((namespace, name))

    def group(self, namespace: str, group: str) -> list[Entry[T]]:
        """The entries of one group, in order of their names."""
        with self._lock:
            found = list(self._groups.get((namespace, group), {}).values())
        return sorted(found, key=lambda entry: entry.name)

    def entries(self) -> list[Entry[T]]:
        with self._lock:
            return list(self._by_name.values())

    def in_namespace(self, namespace: str) -> list[Entry[T]]:
        with self._lock:
            return list(self._namespaces.get(namespace, {}).values())

    def __len__(self) -> int:
        return len(self._by_name)

    # -- the informer's side ---

    def seen(self, entry: Entry[T]) -> None:
        """The watch showed this object."""
        with self._lock:
            self._seen_up_to = max(self._seen_up_to, entry.version)
            old = self._by_name.get((entry.namespace, entry.name))
            if old is not None and old.version >= entry.version:
                return
            self._set(entry)
        self._on_change(old, entry)

    def gone(self, namespace: str, name: str, version: int) -> None:
        """The watch showed that this object was deleted, in `version`."""
        with self._lock:
            self._seen_up_to = max(self._seen_up_to, version)
            old = self._by_name.get((namespace, name))
            if old is None or old.version > version:
                return
            self._drop(old)
        self._on_change(old, None)

    def reached(self, version: int) -> None:
        """A bookmark: everything up to `version` was shown."""
        with self._lock:
            self._seen_up_to = max(self._seen_up_to, version)

    def listed(self, entries: Iterable[Entry[T]], version: int) -> None:
        """A complete list as of `version`: what it lacks is gone, unless an own write made it later."""
        changes: list[tuple[Entry[T] | None, Entry[T] | None]] = []
        with self._lock:
            # A list from before what was seen already is of another history (etcd restored from a backup).
            rewound = version < self._seen_up_to
            self._seen_up_to = version
            listed = {(entry.namespace, entry.name): entry for entry in entries}
            for key, old in list(self._by_name.items()):
                if key not in listed and (rewound or old.version <= version):
                    self._drop(old)
                    changes.append((old, None))
            for key, entry in listed.items():
                before = self._by_name.get(key)
                if before is None or rewound or before.version < entry.version:
                    self._set(entry)
                    changes.append((before, entry))
        for before, after in changes:
            self._on_change(before, after)

    # -- the writer's side ---

    def wrote(self, entry: Entry[T]) -> None:
        """The API server answered an own write, or a read by name, with this object."""
        with self._lock:
            old = self._by_name.get((entry.namespace, entry.name))
            newest = old.version if old is not None else self._seen_up_to
            if entry.version <= newest:
                return  # the watch was faster, and may have shown its deletion already
            self._set(entry)
        self._on_change(old, entry)

    def absent(self, namespace: str, name: str, uid: str | None = None) -> None:
        """A read or a delete said that there is no such object (with this uid)."""
        with self._lock:
            old = self._by_name.get((namespace, name))
            if old is None or (uid is not None and old.uid != uid):
                return
            self._drop(old)
        self._on_change(old, None)

    # -- underneath, with the lock held ---

    def _set(self, entry: Entry[T]) -> None:
        old = self._by_name.get((entry.namespace, entry.name))
        if old is not None and old.group != entry.group:
            self._drop(old)
        self._by_name[entry.namespace, entry.name] = entry
        self._namespaces.setdefault(entry.namespace, {})[entry.name] = entry
        self._groups.setdefault((entry.namespace, entry.group), {})[entry.name] = entry

    def _drop(self, entry: Entry[T]) -> None:
        self._by_name.pop((entry.namespace, entry.name), None)
        _take(self._namespaces, entry.namespace, entry.name)
        _take(self._groups, (entry.namespace, entry.group), entry.name)


def _take(index: dict[K, dict[str, Entry[T]]], key: K, name: str) -> None:
    members = index.get(key, {})
    members.pop(name, None)
    if not members:
        index.pop(key, None)
