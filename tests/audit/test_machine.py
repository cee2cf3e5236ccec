"""What commands at one audit do of its tasks."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from dpclean.audit.machine import claimed
from dpclean.jobs.tasks import Tasks


def test_what_another_is_at_is_waited_for_where_the_rest_needs_it(tmp_path: Path) -> None:
    tasks, done = Tasks(tmp_path), list[int]()
    tasks.make_folders()
    with ExitStack() as first, ExitStack() as third:
        for number, elsewhere in ((1, first), (3, third)):
            assert elsewhere.enter_context(tasks.claim(number))

        def waiting() -> None:
            assert done in ([2], [2, 4])  # nothing beyond two and then four, of which one each is another's
            number, elsewhere = (1, first) if done == [2] else (3, third)
            tasks.finish(number, b"")
            elsewhere.close()

        with claimed(tasks, 5, stages=(2, 4), still=lambda: True, check=waiting) as numbers:
            for number in numbers:
                done.append(number)
                tasks.finish(number, b"")
    assert done == [2, 4, 5]


def test_who_stops_gives_back_what_he_had_claimed(tmp_path: Path) -> None:
    tasks = Tasks(tmp_path)
    tasks.make_folders()
    with claimed(tasks, 2, still=lambda: True, check=lambda: None) as numbers:
        assert next(numbers) == 1
    with tasks.claim(1) as mine:
        assert mine
    with claimed(tasks, 2, still=lambda: False, check=lambda: None) as numbers:
        assert list(numbers) == []  # another command has made OUT of it
