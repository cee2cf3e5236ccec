"""Commands of users: what they are filled with, how they end, and that no shell has a part in it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from dpclean.certify.options import CertifyOptions
from dpclean.errors import Interrupted, UsageError
from dpclean.jobs.command import Command, CommandFailed


def test_places_are_filled_in_and_nothing_is_expanded(tmp_path: Path) -> None:
    text = f"{sys.executable} -c 'import sys; print(sys.argv[1:])' {{data}} --to={{out}} '$HOME *' ~ $(true)"
    Command(text, "--x").call({"data": tmp_path / "a b", "out": tmp_path / "c"}, tmp_path / "log")
    said = (tmp_path / "log").read_text().strip()
    assert said == repr([str(tmp_path / "a b"), f"--to={tmp_path / 'c'}", "$HOME *", "~", "$(true)"])


@pytest.mark.parametrize(
    ("text", "words", "cut_off"),
    [
        ("no-such-program-at-all", "does not start: 'no-such-program-at-all': No such file", True),
        ("sh -c 'echo first; echo last; exit 3'", "left with exit code 3: last", False),
        ("sh -c 'head -c 3000000 /dev/zero | tr \\\\0 x; exit 3'", f"left with exit code 3: {'x' * 500}.", False),
        ("false", "left with exit code 1: it said nothing", False),
        ("sh -c 'kill -9 $$'", "was ended by signal 9", True),
        ("sleep 60", "took more than 0.3 s", True),
    ],
)
def test_how_it_ended_is_told(text: str, words: str, cut_off: bool, tmp_path: Path) -> None:
    with pytest.raises(CommandFailed) as failed:
        Command(text, "--x").call({}, tmp_path / "log", timeout=0.3 if "sleep" in text else 60)
    assert words in f"{failed.value.what}." and failed.value.cut_off == cut_off


def test_a_check_ends_it(tmp_path: Path) -> None:
    def stop() -> None:
        raise Interrupted("stopped", "go on")

    with pytest.raises(Interrupted):
        Command("sh -c 'sleep 20; touch {out}'", "--x").call({"out": tmp_path / "late"}, tmp_path / "log", check=stop)
    assert not (tmp_path / "late").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("run '{data} {out}", "no closing quotation"),
        ("run {data}", "{data} and {out} in it"),
        ("", "{data} and {out} in it"),
    ],
)
def test_what_is_no_command_is_refused_before_anything_is_read(text: str, words: str) -> None:
    with pytest.raises(UsageError) as refused:
        CertifyOptions(sigma="0.25", trainer=text)
    assert words in refused.value.message and refused.value.message.startswith("--trainer is")
