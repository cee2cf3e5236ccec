"""Walking an image folder in byte order of the whole relative name, and giving every file a place in OUT.

Only names are looked at: nothing inside a file can move another one. Memory is that of one
folder's names.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from dpclean.data.formats import OUTPUT_ENDINGS, split_ending, stem
from dpclean.data.names import to_bytes, to_text
from dpclean.data.safe_open import identity_of_folder, link_reason
from dpclean.errors import Reason

MAX_NAME_BYTES = 3072  # of a relative name: leaves room for any root within the system's 4096
MAX_PART_BYTES = 255


class Found(NamedTuple):
    """One entry of the walk."""

    name: str  # relative to the root; an unreadable folder ends with a slash
    stem: str  # relative output name without its ending
    reason: Reason | None


class Listing:
    """The entries of a folder tree; hidden ones (a part begins with a dot) are skipped and counted.

    Iterating raises OSError when the root itself cannot be listed.
    """

    def __init__(self, root: bytes, follow_links: bool, endings: Iterable[str] = OUTPUT_ENDINGS.values()) -> None:
        self.root = root
        self.follow_links = follow_links
        self.hidden = 0  # of the last complete walk
        self._endings = frozenset(endings)  # those an output may get
        self._longest_ending = max(map(len, self._endings))

    def __iter__(self) -> Iterator[Found]:
        top = _Folder(self.root, b"", self.follow_links, ())
        hidden, stack = top.hidden, [(top, iter(top.names))]
        while stack:
            folder, names = stack[-1]
            name = next(names, None)
            if name is None:
                stack.pop()
            elif not name.endswith(b"/"):
                yield self._found(folder, name)
            else:
                try:
                    inner = _Folder(self.root, folder.prefix + name, self.follow_links, folder.path)
                except OSError:
                    unreadable = to_text(folder.prefix + name)
                    yield Found(unreadable, unreadable, Reason.UNREADABLE)
                    continue
                hidden += inner.hidden
                stack.append((inner, iter(inner.names)))
        self.hidden = hidden

    def _found(self, folder: _Folder, name: bytes) -> Found:
        if folder.stems is None:
            folder.stems = Stems(folder.names, self._endings)
        relative, (output, collides) = folder.prefix + name, folder.stems.of(to_text(name))
        reason: Reason | None = None
        if name in folder.irregular:
            reason = Reason.NOT_REGULAR
        elif max(len(relative) - MAX_NAME_BYTES, len(to_bytes(output)) - MAX_PART_BYTES) > -self._longest_ending:
            reason = Reason.UNREADABLE
        elif name in folder.links:
            reason = link_reason(self.root, relative, self.follow_links)
        if reason is None and collides:
            reason = Reason.NAME_COLLISION
        return Found(to_text(relative), to_text(folder.prefix) + output, reason)


class Stems:
    """Output names, without their endings, of the files of one folder; no two are equal.

    A known image ending goes away. Files that would then meet keep their full names; so does, in
    turn, whatever meets one of these. What still meets a folder's name collides.
    """

    def __init__(self, names: Iterable[bytes], endings: frozenset[str]) -> None:
        files = [name for name in names if not name.endswith(b"/")]
        folders = (split_ending(to_text(name[:-1])) for name in names if name.endswith(b"/"))
        self._taken = {front for front, ending in folders if ending in endings}
        self._full = _equal_stems(files) | {name for name in map(to_text, files) if stem(name) in self._taken}
        fresh = self._full
        while fresh:
            candidates = (name for name in map(to_text, files) if stem(name) in fresh and name not in self._full)
            fresh = set(candidates)
            self._full |= fresh

    def of(self, name: str) -> tuple[str, bool]:
        """The stem of a file of this folder, and whether it still collides."""
        if name in self._full:
            return name, name in self._taken
        return stem(name), False


class _Folder:
    """The names of one folder in byte order, folders with their slash. Raises OSError.

    above: identities of the folders on the way, where links are followed; a link back to one of them is no folder.
    """

    def __init__(self, root: bytes, prefix: bytes, follow_links: bool, above: tuple[tuple[int, int], ...]) -> None:
        self.prefix = prefix
        self.path = (*above, identity_of_folder(os.path.join(root, prefix))) if follow_links else ()
        self._follow_links = follow_links
        self.names: list[bytes] = []
        self.links: set[bytes] = set()
        self.irregular: set[bytes] = set()
        self.hidden = 0
        self.stems: Stems | None = None
        with os.scandir(os.path.join(root, prefix)) as entries:
            for entry in entries:
                self._add(entry)
        self.names.sort()

    def _add(self, entry: os.DirEntry[bytes]) -> None:
        if entry.name.startswith(b"."):
            self.hidden += 1
            return
        if is_folder(entry, self._follow_links, self.path):
            self.names.append(entry.name + b"/")
            return
        self.names.append(entry.name)
        if entry.is_symlink():
            self.links.add(entry.name)
        elif not entry.is_file(follow_symlinks=False):
            self.irregular.add(entry.name)


def is_folder(entry: os.DirEntry[bytes], follow_links: bool, above: tuple[tuple[int, int], ...]) -> bool:
    """Whether an entry is a folder to walk; a link to one is with follow_links, unless it leads back above."""
    if entry.is_dir(follow_symlinks=False):
        return True
    try:
        return follow_links and entry.is_dir() and identity_of_folder(entry.path) not in above
    except OSError:
        return False


def _equal_stems(files: list[bytes]) -> set[str]:
    """The names whose stem is another one's too; hashes first, so that a large folder costs eight bytes a name."""
    hashes = np.fromiter((hash(stem(to_text(name))) for name in files), np.int64, len(files))
    hashes.sort()
    doubled = set(hashes[1:][hashes[1:] == hashes[:-1]].tolist())
    if not doubled:
        return set()
    candidates = [name for name in map(to_text, files) if hash(stem(name)) in doubled]
    counts = Counter(map(stem, candidates))
    return {name for name in candidates if counts[stem(name)] > 1}
