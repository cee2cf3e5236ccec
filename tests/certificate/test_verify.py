"""`verify` holds for what `certify` writes, and names the first thing that somebody changed afterwards."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import structs

from dpclean.certificate.bounds import BOUNDS
from dpclean.certificate.certificate import build
from dpclean.certificate.files import dump, tsv
from dpclean.certificate.verify import verify
from dpclean.certificate.votes import Votes, job_id, read_bytes, read_votes, record, votes_bytes
from dpclean.cli import run
from dpclean.errors import ConflictError, DifferenceError, InputError
from tests.certificate.ballots import ballot, counted, hand_over

Json = dict[str, Any]
COLUMNS = ({0: 100}, {1: 90, 0: 4}, {2: 80, 1: 20}, {0: 50, 1: 50}, {})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return hand_over(tmp_path / "certificate", counted(*COLUMNS, labels=[0, 1, 0, -1, 2]))


def edited(folder: Path, change: Callable[[Json], None]) -> None:
    """certificate.json with a change; certified.tsv follows, so that it is not what gives the change away."""
    certificate = json.loads((folder / "certificate.json").read_text())
    change(certificate)
    (folder / "certificate.json").write_bytes(dump(certificate))
    (folder / "certified.tsv").write_text(tsv(certificate))


def with_votes(folder: Path, votes: Votes) -> None:
    """votes.safetensors replaced, with the new digest in the certificate: only what it holds gives it away."""
    data = votes_bytes(votes)
    (folder / "votes.safetensors").write_bytes(data)
    edited(folder, lambda certificate: certificate.update(votes_sha256=hashlib.sha256(data).hexdigest()))


def difference(folder: Path) -> str:
    with pytest.raises(DifferenceError) as found:
        verify(folder)
    assert found.value.exit == 6
    return found.value.message


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("family", ["point", "all"])
@pytest.mark.parametrize("tau", [None, "0", "0.001"])
def test_what_was_built_holds_without_a_warning(tmp_path: Path, bound: str, family: str, tau: str | None) -> None:
    origin = {} if tau is None else {"origin": "external", "tau": tau}
    votes = counted(*COLUMNS, labels=[0, 1, 0, -1, 2], bound=bound, family=family, **origin)
    result = verify(hand_over(tmp_path / "out", votes))
    assert (result.points, result.runs, result.warnings) == (5, 100, []) and result.certified >= 2


def test_votes_from_elsewhere_hold_and_more_is_the_issuers_word(tmp_path: Path) -> None:
    result = verify(hand_over(tmp_path / "out", counted(*COLUMNS, origin="external")))
    assert any(line.startswith("The noise: that its size is sigma") for line in result.issuers_word)


def test_what_nobody_can_check_is_listed(folder: Path) -> None:
    said = "\n".join(verify(folder).issuers_word)
    for words in ("honest run", "left out", "in any order", "before the first run", "labels", "raw", "values", "engine",
                  "denoiser", "points_digest", "inputs_digest", "secret", "attempt 1", "dpclean"):  # fmt: skip
        assert words in said
    assert all("from votes.safetensors" in line or "terms" in line or "record" in line
               for line in verify(folder).recomputed)  # fmt: skip


@pytest.mark.parametrize("how", ["reversed", "one row", "left out"])
def test_forgeries_that_nobody_can_see_are_said_to_be_possible(folder: Path, how: str) -> None:
    """With records made to fit, rows in another order, one many times, or fewer of them, are votes like others."""
    votes = read_votes(folder / "votes.safetensors")
    rows = {"reversed": slice(None, None, -1), "one row": [0] * 100, "left out": slice(0, 60)}[how]
    table = votes.votes[rows]
    forged = ballot(table, votes.labels)
    assert verify(hand_over(folder.parent / "forged", forged)).points == 5
    assert "in any order, repeat one forty times or leave some out" in " ".join(verify(folder).issuers_word)


def test_a_large_alpha_and_a_seed_are_warned_about(tmp_path: Path) -> None:
    result = verify(
        hand_over(tmp_path / "out", counted(*COLUMNS, alpha="0.06", seed=7, points_in_training=2, attempt=3))
    )
    assert len(result.warnings) == 4 and "0.06" in result.warnings[0]


# ---------------------------------------------------------------------------------------------------- the votes


def test_an_edited_vote_is_found_and_its_run_named(folder: Path) -> None:
    votes = read_votes(folder / "votes.safetensors")
    votes.votes[41, 2] = 0
    with_votes(folder, votes)
    assert difference(folder).startswith("votes.safetensors: run 42: its votes were edited")


def test_an_edited_vote_with_its_record_made_anew_is_found_by_the_recount(folder: Path) -> None:
    votes = read_votes(folder / "votes.safetensors")
    assert votes.records is not None
    votes.votes[41, 1] = 0
    votes.records[41] = np.frombuffer(record(job_id(votes.parameters), 42, votes.votes[41]), np.uint8)
    with_votes(folder, votes)
    assert difference(folder).startswith("point 1 ('001.png'): k_a is 90, recomputed it is 89")


def test_a_vote_edited_in_place_is_found_by_the_digest_where_there_are_no_records(tmp_path: Path) -> None:
    folder = hand_over(tmp_path / "out", counted(*COLUMNS, origin="external"))
    data = bytearray((folder / "votes.safetensors").read_bytes())
    data[-4:] = b"\x00" * 4
    (folder / "votes.safetensors").write_bytes(data)
    assert difference(folder).startswith("votes_sha256 is ")


def test_a_doubled_run_is_named_with_its_original(folder: Path) -> None:
    votes = read_votes(folder / "votes.safetensors")
    assert votes.records is not None
    votes.votes[7], votes.records[7] = votes.votes[4], votes.records[4]
    with_votes(folder, votes)
    assert difference(folder) == "votes.safetensors: run 8 is a copy of run 5"


def test_runs_that_changed_places_are_found(folder: Path) -> None:
    votes = read_votes(folder / "votes.safetensors")
    assert votes.records is not None
    order = [1, 0, *range(2, 100)]
    with_votes(folder, Votes(votes.votes[order], votes.labels, votes.records[order], votes.parameters))
    assert "run 1: its votes were edited" in difference(folder)


def test_a_run_of_another_job_is_found(folder: Path) -> None:
    votes = read_votes(folder / "votes.safetensors")
    other = ballot(votes.votes, sigma="0.5")
    assert votes.records is not None and other.records is not None
    votes.records[9] = other.records[9]
    with_votes(folder, votes)
    assert "run 10: " in difference(folder) and "of another job" in difference(folder)


@pytest.mark.parametrize("kept", [99, 101])
def test_a_missing_or_additional_run_is_refused(folder: Path, kept: int) -> None:
    votes = read_votes(folder / "votes.safetensors")
    assert votes.records is not None
    rows = np.arange(kept) % 100
    with_votes(folder, Votes(votes.votes[rows], votes.labels, votes.records[rows], votes.parameters))
    assert "announce 100" in difference(folder)


def test_runs_without_their_records_are_found(folder: Path) -> None:
    votes = read_votes(folder / "votes.safetensors")
    with_votes(folder, Votes(votes.votes, votes.labels, None, votes.parameters))
    assert "no records" in difference(folder)


def test_terms_cannot_be_changed_after_the_runs_in_both_files(folder: Path) -> None:
    # all else made to fit: alpha 0.01 would give larger radii from the same votes
    votes = read_votes(folder / "votes.safetensors")
    looser = Votes(votes.votes, votes.labels, votes.records, structs.replace(votes.parameters, alpha="0.01"))
    data = votes_bytes(looser)
    certificate = build(looser, hashlib.sha256(data).hexdigest())
    (folder / "votes.safetensors").write_bytes(data)
    (folder / "certificate.json").write_bytes(dump(certificate))
    (folder / "certified.tsv").write_text(tsv(certificate))
    assert "run 1: its votes were edited" in difference(folder)


def test_other_labels_are_found(folder: Path) -> None:
    votes = read_votes(folder / "votes.safetensors")
    with_votes(folder, Votes(votes.votes, np.array([0, 1, 2, -1, 2]), votes.records, votes.parameters))
    assert difference(folder).startswith("point 2 ('002.png'): label is 0")


# ---------------------------------------------------------------------------------------------- the certificate


def change(section: str, *path: Any, to: Any) -> Callable[[Json], None]:
    def apply(certificate: Json) -> None:
        place = certificate[section]
        for step in path[:-1]:
            place = place[step]
        if path:
            place[path[-1]] = to
        else:
            certificate[section] = to

    return apply


CHANGES: list[tuple[Callable[[Json], None], str]] = [
    (change("points", 0, "certified_radius", to="0.380000"), "point 0 ('000.png'): certified_radius is '0.380000'"),
    (change("points", 1, "class", to=0), "point 1 ('001.png'): class is 0"),
    (change("points", 1, "k_a", to=95), "point 1 ('001.png'): k_a is 95"),
    (change("points", 1, "k_b", to=0), "point 1 ('001.png'): k_b is 0"),
    (change("points", 1, "label", to=None), "point 1 ('001.png'): label"),
    (change("points", 1, "name", to="002.png"), "point 1 ('001.png'): name"),
    (change("points", 1, "budget", to=10**6), "point 1 ('001.png'): budget is 1000000"),
    (change("points", 1, "pa_lower", to="0.950000000000000000"), "point 1 ('001.png'): pa_lower is '0.95"),
    (change("points", 1, "pb_upper", to="0.010000000000000000"), "point 1 ('001.png'): pb_upper is '0.01"),
    (change("points", 1, "pb_upper", to=None), "point 1 ('001.png'): pb_upper"),
    (change("points", 1, "certified_radius", to="1e-6"), "point 1 ('001.png'): certified_radius"),
    (change("points", 1, "certified_radius", to=0.1), "point 1 ('001.png'): certified_radius is 0.1,"),
    (change("points", 1, "pa_lower", to=None), "point 1 ('001.png'): pa_lower is None"),
    (change("points", 3, "class", to=0), "point 3 ('003.png'): class is 0"),
    (change("points", 3, "budget", to=5), "point 3 ('003.png'): budget is 5"),
    (change("points", to=[]), "point 0 ('000.png') is missing"),
    (change("terms", "alpha", to="0.0001"), "terms.alpha is '0.0001'"),
    (change("terms", "runs", to=1000), "terms.runs is 1000"),
    (change("terms", "raw", "quarantined", to={}), "terms.raw.quarantined.corrupt is missing"),
    (change("job", to="00" * 32), "job is"),
    (change("votes_sha256", to="00" * 32), "votes_sha256 is"),
    (change("kind", to="exploratory"), "kind is 'exploratory'"),
    (change("summary", "certified", to=5), "summary.certified is 5"),
    (change("summary", "ceiling", to="1.000000"), "summary.ceiling is '1.000000'"),
    (change("summary", "largest_radius", to="1.000000"), "summary.largest_radius"),
    (change("accuracy", "labelled", to=3), "accuracy.labelled is 3"),
    (change("accuracy", "at", 0, "certified", to=4), "accuracy.at[0].certified is 4"),
    (change("accuracy", "at", 1, "lower", to="0.900000"), "accuracy.at[1].lower"),
    (change("accuracy", "j", to=1), "accuracy.j is 1"),
    (change("accuracy_certificate", "mu_lower", to="0.900000"), "accuracy_certificate.mu_lower"),
    (change("accuracy_certificate", "curve", 3, "accuracy", to="0.9"), "accuracy_certificate.curve[3].accuracy"),
    (change("accuracy_certificate", "attack", to=[]), "accuracy_certificate.attack[0] is missing"),
    (change("accuracy_certificate", to=None), "accuracy_certificate is None"),
    (change("assumptions", 0, to="All is well."), "assumptions[0] is 'All is well.'"),
    (change("not_covered", to=[]), "not_covered[0] is missing"),
    (change("attack_sizes", 4, "covered_by_largest", to=True), "attack_sizes[4].covered_by_largest is True"),
    (lambda certificate: certificate.update(seal="golden"), "seal is 'golden'"),
]  # fmt: skip


@pytest.mark.parametrize(("apply", "words"), CHANGES, ids=[words for _, words in CHANGES])
def test_a_change_of_the_certificate_is_named(folder: Path, apply: Callable[[Json], None], words: str) -> None:
    edited(folder, apply)
    assert difference(folder).startswith(words)


@pytest.mark.parametrize("point", [{}, [], None, {"index": 0}])
def test_what_is_no_point_is_found(folder: Path, point: Any) -> None:
    certificate = json.loads((folder / "certificate.json").read_text())
    certificate["points"][1] = point
    (folder / "certificate.json").write_bytes(dump(certificate))
    assert difference(folder).startswith("point 1 ('001.png')")


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("step", [1, -1])
def test_a_radius_one_step_off_is_found(tmp_path: Path, bound: str, step: int) -> None:
    """Too large is false; too small is not what the votes give, and no other place knows of it."""
    folder = hand_over(tmp_path / "out", counted(*COLUMNS, bound=bound))

    def widen(certificate: Json) -> None:
        point = certificate["points"][1]
        units = int(point["certified_radius"].replace(".", "")) + step
        point["certified_radius"] = f"0.{units:06d}"
        point["budget"] = -(-((255 * units) ** 2) // 10**12) - 1

    edited(folder, widen)
    assert "point 1 ('001.png'): certified_radius is '0." in difference(folder)


@pytest.mark.parametrize(
    "respell",
    [
        lambda text: text.replace('"format": 3,', '"format": 3,\n "format": 3,', 1),
        lambda text: text.replace('"format": 3,', '"seal": 1,\n "format": 3,', 1).replace('"seal": 1,\n ', "", 1) + " ",
        lambda text: text.replace('"points": 5', '"points": 5.0'),
        lambda text: text.replace('"certified": 3', '"certified": 3e0'),
        lambda text: text.replace('"j": 0', '"j": false'),
        lambda text: text.replace('"covered_by_largest": true', '"covered_by_largest": 1'),
        lambda text: text.replace("000.png", "\\u0030\\u0030\\u0030.png"),
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("0.25", "0__0.25"),
        lambda text: text.replace('"runs": 100', '"runs": 1' + "0" * 6000),
        lambda text: text.replace('"budget": 0', '"budget": NaN'),
        lambda text: text.replace('"budget": 0', '"budget": -1'),
        lambda text: "[" * 10**5,
        lambda text: "",
        lambda text: "null",
        lambda text: '"' + "x" * 10**6,
        lambda text: text * 3,
    ],
)
def test_what_is_spelled_in_another_way_is_found(folder: Path, respell: Callable[[str], str]) -> None:
    path = folder / "certificate.json"
    before = path.read_text()
    path.write_text(respell(before), newline="")
    assert path.read_bytes() != before.encode()
    difference(folder)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig"])
def test_another_encoding_is_found(folder: Path, encoding: str) -> None:
    path = folder / "certificate.json"
    path.write_bytes(path.read_text().encode(encoding))
    difference(folder)


def test_a_file_without_end_is_read_as_far_as_a_difference(folder: Path) -> None:
    with (folder / "certificate.json").open("r+b") as file:
        file.truncate(1 << 40)  # sparse
    assert "not written as certify writes it" in difference(folder)
    for name in ("certificate.json", "votes.safetensors"):
        (folder / name).unlink()
        os.mkfifo(folder / name)
        with pytest.raises(InputError):
            verify(folder)


# ------------------------------------------------------------------------------------------------ the other files


def test_no_memory_is_taken_for_more_than_a_file_has(tmp_path: Path) -> None:
    """What may be read of a certificate of many points is far more than most have."""
    (tmp_path / "short").write_bytes(b"short")
    assert [read_bytes(tmp_path / "short", most) for most in (-1, 2, 1 << 60)] == [b"short", b"sh", b"short"]


def test_a_changed_table_is_named_by_its_line(folder: Path) -> None:
    path = folder / "certified.tsv"
    path.write_text(path.read_text().replace("002.png", "004.png"))
    assert difference(folder) == "certified.tsv differs from certificate.json in line 4"
    path.unlink()
    with pytest.raises(InputError, match="certified.tsv"):
        verify(folder)


def test_another_version_switches_nothing_off(folder: Path) -> None:
    votes = read_votes(folder / "votes.safetensors")
    other = hand_over(folder.parent / "older", ballot(votes.votes, votes.labels, tool="dpclean 0.0.9"))
    assert verify(other).points == 5
    for section, value in (("assumptions", ["Said otherwise."]), ("attack_sizes", []), ("not_covered", [])):
        edited(other, change(section, to=value))
        with pytest.raises(DifferenceError, match=section) as found:
            verify(other)
        assert "dpclean 0.0.9" in found.value.remedy
        hand_over(folder.parent / "again", ballot(votes.votes, votes.labels, tool="dpclean 0.0.9"))
        shutil.rmtree(other)
        (folder.parent / "again").rename(other)


def test_missing_and_newer_files_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        verify(tmp_path / "nowhere")
    edited(folder, lambda certificate: certificate.update(format=4))
    with pytest.raises(ConflictError):
        verify(folder)
    (folder / "certificate.json").write_text("{")
    assert "no JSON" in difference(folder)


def test_the_example_in_the_repository_holds() -> None:
    """It is of the format that is written now, or it has to be made again: examples/certificate/README.md says how."""
    result = verify(Path(__file__).parents[2] / "examples" / "certificate")
    assert (result.points, result.certified, result.runs) == (30, 27, 1000)


# ------------------------------------------------------------------------------------------------- the command


def test_the_command_says_what_holds_and_what_was_not_checked(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "The arithmetic holds: 3 of 5 points" in said and "The issuer's word" in said and "honest run" in said
    assert "certificate holds" not in said and "Not read" not in said
    (folder / "report.html").write_text("The moon is certified.")
    assert run(["verify", str(folder / "certificate.json")]) == 0
    assert "Not read, and perhaps saying something else: report.html." in capsys.readouterr().out
    assert run(["verify", str(folder), "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert run(["verify", str(folder), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["status"] == "ok" and result["points"] == 5 and result["runs"] == 100
    assert result["recomputed"] and result["issuers_word"] and "raw" in result["issuers_terms"]
    assert result["not_read"] == ["report.html"]
    for wrong in ("report.html", "certified.tsv"):
        assert run(["verify", str(folder / wrong)]) == 3
    capsys.readouterr()


def test_the_command_leaves_with_6_and_the_first_difference(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edited(folder, change("points", 1, "k_a", to=95))
    assert run(["verify", str(folder)]) == 6
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and "point 1 ('001.png'): k_a is 95" in said[0]
    assert run(["verify", str(folder), "--json"]) == 6
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "difference"


BLOCKED = ("torch", "torchvision", "scipy", "matplotlib", "jinja2", "diffusers", "PIL", "huggingface_hub")


def test_verify_needs_none_of_the_heavy_packages(folder: Path) -> None:
    program = f"""
import sys
for name in {BLOCKED!r}:
    sys.modules[name] = None  # an import of it fails
from dpclean.cli import run
sys.exit(run(["verify", sys.argv[1]]))
"""
    done = subprocess.run([sys.executable, "-c", program, str(folder)], capture_output=True, text=True)
    assert done.returncode == 0 and "The arithmetic holds" in done.stdout, done.stderr
