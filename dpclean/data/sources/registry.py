"""RAW as a frozen listing and a stream of samples, of whichever kind it is."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from dpclean.data.formats import claims_image
from dpclean.data.records import DataOptions
from dpclean.data.sources.image_folder import FolderSource
from dpclean.data.sources.listing import Listing
from dpclean.data.sources.safetensors_shards import ShardSource
from dpclean.data.sources.source import Source
from dpclean.errors import InputError

# by its ending, a kind of file that holds many samples; whatever has none of them is a folder of images
SHARDS = {".safetensors": ShardSource}


def open_source(raw: Path, options: DataOptions) -> Source:
    """RAW as a source: a folder of images, a folder of shards, or one shard.

    Raises InputError when RAW is missing, empty, of another kind, or holds images and shards together.
    """
    try:
        root = raw.resolve(strict=True)
        is_folder = stat.S_ISDIR(root.stat().st_mode)
    except (OSError, RuntimeError) as error:
        raise InputError(f"{raw} cannot be read: {_strerror(error)}", "give a folder of images or of shards") from error
    if not is_folder:
        if (kind := _kind(root.name)) is not None:
            return kind(root.parent, (root.name,), options, hidden=0)
        raise InputError(f"{raw} is neither a folder nor a .safetensors shard", "give a folder of images or of shards")
    return _open_folder(root, raw, options)


def _open_folder(root: Path, raw: Path, options: DataOptions) -> Source:
    listing = Listing(os.fsencode(root), options.follow_links)
    kind: type[ShardSource] | None = None
    shards: list[str] = []
    image = deep = None
    empty = True
    try:
        for found in listing:
            empty = False
            if (its := _kind(found.name)) is not None:
                kind = its
                shards.append(found.name)
                deep = deep or ("/" in found.name and found.name)
            elif image is None and claims_image(found.name):
                image = found.name
    except OSError as error:
        raise InputError(f"{raw} cannot be listed: {_strerror(error)}", "make it readable, or give another") from error
    if shards and image:
        message = f"{raw} holds both images ({image!r}) and shards ({shards[0]!r})"
        raise InputError(message, "move one kind to a folder of its own")
    if deep:
        raise InputError(f"{raw} has a shard in a folder below it ({deep!r})", "give the folder that holds the shards")
    if kind is not None:
        return kind(root, tuple(shards), options, hidden=listing.hidden)
    if empty:
        raise InputError(f"{raw} holds no files", "give a folder of images or of shards")
    return FolderSource(root, options, hidden=listing.hidden)


def _kind(name: str) -> type[ShardSource] | None:
    return next((kind for ending, kind in SHARDS.items() if name.lower().endswith(ending)), None)


def _strerror(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) and error.strerror else str(error)).lower()
