"""Images out: a file each, in folders like those that came in."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dpclean.data.decoding.encode import output_format
from dpclean.data.decoding.pool import WorkerPool
from dpclean.data.decoding.writer import Writer
from dpclean.data.formats import OUTPUT_ENDINGS, split_ending
from dpclean.data.names import to_bytes
from dpclean.data.records import DataOptions, Sample, Written
from dpclean.jobs.durable import sync_file_system, writing


class FolderSink:
    """One image file a sample, encoded by the workers."""

    def __init__(self, root: Path, options: DataOptions, pool: WorkerPool) -> None:
        self._root = root
        self._option = options.output_format
        self._folders = {""}
        self._pending: list[tuple[int, int, str]] = []  # number that the writer gave, index, target
        with writing(root), os.scandir(root) as entries:
            replace = next(entries, None) is not None
        self._writer: Writer = pool.writer(root, replace)

    def put(self, sample: Sample, pixels: NDArray[np.uint8]) -> None:
        """Queues the image; its ending follows the format that is written."""
        format = output_format(self._option, sample.format, sample.alpha is not None)
        target = split_ending(sample.entry.target)[0] + OUTPUT_ENDINGS[format]
        self._make_folder(target.rpartition("/")[0])
        number = self._writer.put(target, format, pixels, sample.alpha)
        self._pending.append((number, sample.entry.index, target))

    def sync(self) -> list[Written]:
        """One flush of the file system for all files and folders."""
        digests = self._writer.wait()
        sync_file_system(self._root)
        done, self._pending = self._pending, []
        return [Written(index, target, digests[number]) for number, index, target in done]

    def finish(self) -> None:
        """Image files need nothing more."""

    def read_back(self) -> None:
        """Each file has a sum of its own."""

    def _make_folder(self, folder: str) -> None:
        if folder in self._folders:
            return
        path = os.path.join(os.fsencode(self._root), to_bytes(folder))
        with writing(path):
            os.makedirs(path, exist_ok=True)
        self._folders.add(folder)
