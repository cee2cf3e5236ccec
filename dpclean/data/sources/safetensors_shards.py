"""Shards (safetensors files with images and perhaps labels) as a source, read in slices."""

from __future__ import annotations

import bisect
import itertools
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from dpclean.data.decoding.pool import WorkerPool
from dpclean.data.records import DataOptions, Entry, Kind, Rows, Sample
from dpclean.data.safe_open import Unusable, check_there, identity_of_folder
from dpclean.data.shard import Shard, open_shard
from dpclean.data.shard_header import BadShard
from dpclean.data.sinks.safetensors_shards import ShardSink
from dpclean.errors import InputError, Reason

SLICE_BYTES = 4 << 20


class ShardSource:
    """The rows of shards, by file name, then row. A shard that cannot be used is one entry with its reason.

    problems says in a sentence, by file name, what is wrong with each of these; left_behind names the
    tensors that are not carried over. Raises InputError when no shard can be used.
    """

    kind: Kind = "shards"
    names_rows = True
    output_format = "safetensors"
    has_splits = False

    def __init__(self, root: Path, names: tuple[str, ...], options: DataOptions, hidden: int) -> None:
        self.root = root
        self._identity = identity_of_folder(os.fsencode(root))
        self.hidden = hidden
        self.problems: dict[str, str] = {}
        self._options = options
        self._names = names
        self._shards: dict[str, Shard] = {}
        self._reasons: dict[str, Reason] = {}
        for name in names:
            self._open(name)
        self.classes = self._class_names()
        for shard in list(self._shards.values()):
            self._check_classes(shard)
        if not self._shards:
            first = next(iter(self.problems))
            raise InputError(f"no shard can be used; {first} {self.problems[first]}", "mend it, or give other shards")
        self._number()
        self._check_carry()
        others = {name for shard in self._shards.values() for name in shard.others}
        self.left_behind = tuple(sorted(others - set(self.unsanitized())))

    def shards(self) -> tuple[Shard, ...]:
        """The shards that can be used, in order."""
        return tuple(self._shards.values())

    def shard_of(self, index: int) -> Shard:
        """The shard in which the row with this index is."""
        return self._ordered[bisect.bisect_right(self._firsts, index) - 1]

    def entries(self) -> Iterator[Entry]:
        """One entry a row. Raises InputError when a shard changed since it was opened."""
        index = 0
        for name in self._names:
            shard = self._shards.get(name)
            if shard is None:
                yield Entry(index, name, -1, name, self._reasons[name])
                index += 1
                continue
            for row, label in enumerate(self._labels(shard)):
                yield Entry(index, f"{name}#{row}", label, name, None)
                index += 1

    def samples(self, entries: Iterable[Entry], pool: WorkerPool) -> Iterator[Sample]:
        """Rows in the order asked for; neighbours are read together. The pool is not needed."""
        run: list[Entry] = []
        following = end = -1  # the index that goes on with the run, and the one where it ends all the same
        for entry in entries:
            if entry.index != following or entry.index == end or entry.reason is not None:
                yield from self._read(run)
                run, end = [], self._end_of_run(entry)
            run.append(entry)
            following = entry.index + 1
        yield from self._read(run)

    def make_sink(self, root: Path, pool: WorkerPool, kept: Iterable[Entry] = ()) -> ShardSink:
        """A shard for each of these, written here: the pool is not needed."""
        return ShardSink(self, root, kept)

    def written(self, root: Path, names: Sequence[str]) -> Iterator[Rows]:
        """The rows that a sink wrote below root, by the names of its files, but for what cannot be read any more."""
        back = ShardSource(root, tuple(names), replace(self._options, carry=()), hidden=0)
        for shard in back.shards():
            labels, step = back._labels(shard), max(1, SLICE_BYTES // shard.row_bytes)
            with suppress(Unusable):
                for start in range(0, shard.rows, step):
                    pixels = shard.read_rows(start, min(step, shard.rows - start))
                    yield Rows(shard.name, start, list(itertools.islice(labels, len(pixels))), pixels)

    def unsanitized(self) -> tuple[str, ...]:
        """Names of the tensors that are carried over as they are, in any shard."""
        return tuple(sorted({name for shard in self._shards.values() for name in self.carried(shard)}))

    def remarks(self) -> list[str]:
        """What is wrong with each shard that is left out."""
        return [f"{name} {problem}" for name, problem in self.problems.items()]

    def not_carried(self) -> list[str]:
        """The tensors that are left behind."""
        behind = f"tensors left behind (--carry NAME copies them unsanitized): {', '.join(self.left_behind)}"
        return [behind] if self.left_behind else []

    def carried(self, shard: Shard) -> tuple[str, ...]:
        """Names of the tensors of this shard that are carried over: asked for, and with a row for each image."""
        wanted = self._options.carry
        return tuple(name for name in shard.others if name in shard.by_row and (wanted == ("all",) or name in wanted))

    def _open(self, name: str) -> None:
        try:
            self._shards[name] = open_shard(self.root, name, self._options)
        except BadShard as problem:
            self._leave_out(name, Reason.BAD_SHARD, str(problem))
        except Unusable as problem:
            self._leave_out(name, problem.reason, f"cannot be read ({problem.reason.value})")

    def _leave_out(self, name: str, reason: Reason, problem: str) -> None:
        self._shards.pop(name, None)
        self._reasons[name], self.problems[name] = reason, problem

    def _class_names(self) -> tuple[str, ...]:
        """Those, or none, with which most shards can be read: one shard does not drive out all others.

        Of equally many names come before none, and what comes first before others.
        """
        shards = self._shards.values()
        fitting = Counter(s.class_names for s in shards if s.class_names and s.largest_label < len(s.class_names))
        labels = sorted(s.largest_label for s in shards if not s.class_names)
        kept = {names: count + bisect.bisect_left(labels, len(names)) for names, count in fitting.items()}
        return max({**kept, (): len(labels)}.items(), key=lambda names_and_count: names_and_count[1])[0]

    def _check_classes(self, shard: Shard) -> None:
        if shard.class_names and shard.class_names != self.classes:
            self._leave_out(shard.name, Reason.BAD_SHARD, "has other class_names than the shards that are read")
        elif self.classes and shard.largest_label >= len(self.classes):
            problem = f"has the label {shard.largest_label}, but there are {len(self.classes)} class_names"
            self._leave_out(shard.name, Reason.BAD_SHARD, problem)

    def _number(self) -> None:
        """Gives each shard the index of its first row; one that is left out counts one."""
        index = 0
        for name in self._names:
            if name in self._shards:
                self._shards[name].first = index
                index += self._shards[name].rows
            else:
                index += 1
        self._ordered = self.shards()
        self._firsts = [shard.first for shard in self._ordered]

    def _check_carry(self) -> None:
        if self._options.carry == ("all",):
            return
        for name in self._options.carry:
            if not any(name in self.carried(shard) for shard in self._shards.values()):
                message = f"no shard has a tensor {name!r} with a row for each image"
                raise InputError(message, "name another with --carry, or leave it out")

    def _labels(self, shard: Shard) -> Iterator[int]:
        try:
            for slice in shard.label_slices():
                yield from slice.tolist()
        except Unusable as problem:
            raise InputError(f"{shard.name} changed while it was listed", "give the same command again") from problem

    def _end_of_run(self, entry: Entry) -> int:
        """The index before which what is read together with this entry ends."""
        if entry.reason is not None:
            return entry.index + 1
        shard = self.shard_of(entry.index)
        return min(shard.first + shard.rows, entry.index + max(1, SLICE_BYTES // shard.row_bytes))

    def _read(self, run: list[Entry]) -> Iterator[Sample]:
        reason = run[0].reason if run else None
        if run and reason is None:
            shard = self.shard_of(run[0].index)
            try:
                rows = shard.read_rows(run[0].index - shard.first, len(run))
            except Unusable as problem:
                check_there(self.root, self._identity)
                reason = problem.reason
            else:
                first = shard.first
                for row, (entry, pixels) in enumerate(zip(run, rows, strict=False), run[0].index - first):
                    read = (first + row, f"{shard.name}#{row}")
                    yield Sample(entry, pixels, None, "shard", None, False, read)
                reason, run = Reason.TRUNCATED, run[len(rows) :]
        for entry in run:
            yield Sample.left_out(entry, reason)
