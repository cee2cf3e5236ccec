"""Votes from elsewhere, and dpclean's own votes fed back."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from dpclean.certificate.mixtures import Mixture
from dpclean.certificate.verify import verify
from dpclean.certificate.votes import votes_bytes
from dpclean.certificate.whole_images import WORD
from dpclean.certify.external_votes import certify_votes
from dpclean.cli import run
from dpclean.errors import ConflictError, DpcleanError, InputError, UsageError
from dpclean.jobs.record import Record, write_record
from dpclean.jobs.staging import Staging
from tests.certificate.ballots import ballot

U = WORD // 50


def foreign(tmp_path: Path, runs: int = 40, points: int = 5, **tensors: Any) -> Path:
    """Votes of which point 0 is unanimous, point 1 has no votes, and the others are noisy."""
    votes = np.random.default_rng(0).integers(-1, 3, (runs, points)).astype(np.int32)
    votes[:, 0], votes[:, 1] = 2, -1
    path = tmp_path / "foreign.safetensors"
    save_file({"votes": votes, **tensors}, path)
    return path


def test_votes_from_elsewhere_become_a_certificate_that_verifies(tmp_path: Path) -> None:
    labels = np.array([2, 0, 1, -1, 0], np.int64)
    path = foreign(tmp_path, labels=labels)
    line = [
        "certify",
        "--votes",
        str(path),
        "--classes",
        "3",
        "--sigma",
        "0.5",
        "--out",
        str(tmp_path / "out"),
        "--json",
    ]
    done = subprocess.run([sys.executable, "-m", "dpclean", *line], capture_output=True, text=True, timeout=900)
    told = json.loads(done.stdout)
    assert (told["points"], told["certified"], told["correct"], told["labelled"]) == (5, 1, 1, 4)
    certificate = json.loads((tmp_path / "out/certificate.json").read_text())
    assert certificate["points"][0]["certified_radius"] == told["ceiling"]
    assert certificate["terms"]["tau"] == "0"
    assert any("elsewhere" in sentence for sentence in certificate["assumptions"])
    assert verify(tmp_path / "out").runs == 40


def test_tau_makes_radii_smaller(tmp_path: Path) -> None:
    path = foreign(tmp_path)
    radii = [
        certify_votes(path, tmp_path / tau, classes=3, sigma="0.5", tau=tau).largest_radius for tau in ("0", "0.01")
    ]
    assert 0 < float(radii[1]) < float(radii[0])


def test_more_classes_than_votes_name_change_nothing(tmp_path: Path) -> None:
    """No correction for the number of classes is made, as none is needed."""
    path = foreign(tmp_path)
    few, many = (certify_votes(path, tmp_path / str(c), classes=c, sigma="0.5").largest_radius for c in (3, 1000))
    assert few == many


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"classes": None}, UsageError),
        ({"sigma": None}, UsageError),
        ({"classes": 1}, InputError),
        ({"classes": 2}, InputError),  # a vote for class 2 is there
        ({"sigma": "0"}, UsageError),
        ({"sigma": "nan"}, UsageError),
        ({"sigma": "-1", "subsample_word": U}, UsageError),
        ({"alpha": "0.7"}, UsageError),
        ({"tau": "0.25"}, UsageError),
        ({"tau": "-1"}, UsageError),
        ({"bound": "majority"}, UsageError),
        ({"family": "some"}, UsageError),
        ({"bound": "cohen", "selection_runs": 40}, UsageError),
        ({"bound": "union", "selection_runs": 4}, UsageError),
    ],
    ids=str,
)
def test_what_cannot_be_certified_is_refused_and_leaves_nothing(
    tmp_path: Path, change: dict[str, Any], error: type[DpcleanError]
) -> None:
    with pytest.raises(error):
        certify_votes(foreign(tmp_path), tmp_path / "out", **{"classes": 3, "sigma": "0.5", **change})
    assert not list(tmp_path.glob("*out*"))


def command(tmp_path: Path, *more: str) -> int:
    line = ["certify", "--votes", str(tmp_path / "foreign.safetensors"), "--classes", "3", "--sigma", "0.5"]
    return run([*line, "--out", str(tmp_path / "out"), *more])


@pytest.mark.parametrize(
    "option",
    [
        ["--test", "there"], ["--holdout", "0.2"], ["--raw", "raw"], ["--seed", "7"], ["--seed-chosen-after-data"],
        ["--recipe", "tiny"], ["--init", "x"], ["--freeze"], ["--trainer", "x {data} {test} {out}"],
        ["--run-timeout", "5"], ["--keep-models"], ["--denoiser", "natural"], ["--limit", "5"], ["--dry-run"],
        ["--device", "cpu"], ["--dtype", "fp32"], ["--batch-size", "2"], ["--workers", "2"], ["somewhere"],
    ],
    ids=lambda option: option[0],
)  # fmt: skip
def test_an_option_that_would_change_nothing_is_refused(
    tmp_path: Path, option: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    foreign(tmp_path)
    assert command(tmp_path, *option) == 2
    assert "no meaning with --votes" in capsys.readouterr().err and not list(tmp_path.glob("*out*"))


def test_threat_and_runs_are_honoured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    foreign(tmp_path, labels=np.array([2, 0, 1, -1, 0], np.int64))
    assert command(tmp_path, "--runs", "41") == 3 and not list(tmp_path.glob("*out*"))
    assert command(tmp_path, "--threat", "noised-test", "--runs", "40") == 0
    made = json.loads((tmp_path / "out/certificate.json").read_text())
    assert made["terms"]["threat"] == "noised-test" and made["accuracy_certificate"] is None
    assert not any("trigger that is put into it" in sentence for sentence in made["not_covered"])
    assert verify(tmp_path / "out").runs == 40
    for name, value in (("threat", "clean-test"), ("runs", 39)):
        with pytest.raises(ConflictError):
            certify_votes(tmp_path / "out/votes.safetensors", tmp_path / "more", **{name: value})  # type: ignore[arg-type]


def test_noise_beyond_the_pixel_scale_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="pixel scale"):
        certify_votes(foreign(tmp_path), tmp_path / "out", classes=3, sigma="25")
    with pytest.raises(UsageError, match="pixel scale"):
        certify_votes(published(tmp_path), tmp_path / "more", sigma="25", exploratory=True)


def test_rows_of_features_are_not_read_as_if_they_had_been_noised(tmp_path: Path) -> None:
    of_rows = {"raw": {"kind": "features"}, "dimensions": 30, "values": 3000, "sigma": "0", "subsample": U}
    own = ballot(np.zeros((100, 1)), **of_rows, **dict.fromkeys(("denoiser", "decode", "size")))
    (tmp_path / "own.safetensors").write_bytes(votes_bytes(own))
    with pytest.raises(UsageError, match="training data are features"):
        certify_votes(tmp_path / "own.safetensors", tmp_path / "out", sigma="0.5", exploratory=True)


def test_a_nought_with_a_sign_is_a_nought(tmp_path: Path) -> None:
    certify_votes(foreign(tmp_path), tmp_path / "out", classes=3, sigma="-0", tau="-0.0", subsample_word=U)
    assert verify(tmp_path / "out").runs == 40


def published(tmp_path: Path, **terms: Any) -> Path:
    """Votes with dpclean's terms in them."""
    certify_votes(foreign(tmp_path), tmp_path / "own", classes=3, sigma="0.5", **terms)
    return tmp_path / "own/votes.safetensors"


def test_own_votes_bring_their_terms_along(tmp_path: Path) -> None:
    votes = published(tmp_path, bound="union")
    again = certify_votes(votes, tmp_path / "again")
    assert again.kind == "certificate"
    first, second = (json.loads((tmp_path / name / "certificate.json").read_text()) for name in ("own", "again"))
    assert first["points"] == second["points"] and first["terms"]["bound"] == "union"


def test_own_votes_are_not_counted_another_way_after_a_look(tmp_path: Path) -> None:
    votes = published(tmp_path)
    with pytest.raises(ConflictError):
        certify_votes(votes, tmp_path / "again", bound="union")
    read = certify_votes(votes, tmp_path / "again", bound="union", exploratory=True)
    page = (tmp_path / "again/report.html").read_text()
    assert read.kind == "exploratory" and "certificate" not in page.lower()
    assert load_file(tmp_path / "again/votes.safetensors")["votes"].shape == (40, 5)


def test_the_same_votes_again_are_already_complete(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    foreign(tmp_path, labels=np.array([2, 0, 1, -1, 0], np.int64))
    assert command(tmp_path) == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    capsys.readouterr()
    assert command(tmp_path, "--json") == 0
    assert json.loads(capsys.readouterr().out)["already_complete"]
    assert command(tmp_path, "--bound", "union") == 5
    assert "was made with bound multiclass" in (said := capsys.readouterr().err) and "asks for bound union" in said
    for other in ({"labels": np.array([2, 0, 1, -1, 1], np.int64)}, {"points": 5, "runs": 41}):
        foreign(tmp_path, **other)
        assert command(tmp_path) == 5
        assert "digest" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert certify_votes(tmp_path / "out/votes.safetensors", tmp_path / "own").already_complete is False
    assert certify_votes(tmp_path / "out/votes.safetensors", tmp_path / "own").already_complete


# ends between the renames that put the new OUT in the place of the old one
KILLED = """
import os, signal
from pathlib import Path
real = Path.rename
def rename(self, target):
    if self.name == "partial":
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, target)
Path.rename = rename
from dpclean import cli
cli.main()
"""


@pytest.mark.parametrize("looks", ["verify", "certify"])
def test_a_kill_between_the_renames_of_a_replacement_is_mended_by_whatever_looks_next(
    tmp_path: Path, looks: str
) -> None:
    foreign(tmp_path)
    assert command(tmp_path) == 0
    out = tmp_path / "out"
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    line = ["certify", "--votes", str(tmp_path / "foreign.safetensors"), "--classes", "3", "--sigma", "1"]
    again = [*line, "--out", str(out), "--overwrite"]
    assert subprocess.run([sys.executable, "-c", KILLED, *again]).returncode == -signal.SIGKILL
    assert not out.exists()
    words = {"verify": [str(out)], "certify": ["--votes", str(out / "votes.safetensors"), "--out", f"{out}-own"]}
    assert run([looks, *words[looks]]) == 0
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert run(again) == 0
    assert json.loads((out / "certificate.json").read_text())["terms"]["sigma"] == "1"
    assert not (tmp_path / ".out.dpclean").exists()


def test_another_folder_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.txt").write_text("precious")
    with pytest.raises(ConflictError):
        certify_votes(foreign(tmp_path), tmp_path / "out", classes=3, sigma="0.5", overwrite=True)
    assert (tmp_path / "out/thesis.txt").read_text() == "precious"


def test_a_job_that_was_begun_is_not_lost_to_votes_that_were_cast_elsewhere(tmp_path: Path) -> None:
    staging = Staging(tmp_path / "out")
    with staging:
        staging.start()
        write_record(staging.record, Record("certify", {}, {}, {}))
        (staging.work / "runs").write_text("hours")
    with pytest.raises(ConflictError, match="was begun by 'dpclean certify'"):
        certify_votes(foreign(tmp_path), staging.out, classes=3, sigma="0.5")
    with staging.at_work(), pytest.raises(ConflictError, match="another command is at work"):
        certify_votes(foreign(tmp_path), staging.out, classes=3, sigma="0.5", overwrite=True)
    assert (staging.work / "runs").read_text() == "hours"
    certify_votes(foreign(tmp_path), staging.out, classes=3, sigma="0.5", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir() if "out" in path.name) == ["out"]


# ------------------------------------------------------------------------------------------------ whole images


def test_votes_on_shares_from_elsewhere_become_claims_on_whole_images(tmp_path: Path) -> None:
    """How many images there were is not known, so the numbers are those that the votes alone give."""
    path = foreign(tmp_path, runs=1000, labels=np.array([2, 0, 1, -1, 0], np.int64))
    told = certify_votes(path, tmp_path / "out", classes=3, sigma="0", bound="multiclass", subsample_word=U)
    made = json.loads((tmp_path / "out/certificate.json").read_text())
    assert made["terms"]["subsample"] == U and made["terms"]["origin"] == "external" and told.certified == 1
    first = made["points"][0]
    assert [first[f"images_{kind}"] for kind in ("inserted", "changed", "missing")] == [210, 33, 33]
    assert verify(tmp_path / "out").certified == 1
    said = " ".join(made["assumptions"])
    assert "never drawn again" in said and "Gaussian" not in said
    page = (tmp_path / "out/report.html").read_text()
    assert "a fresh random share of the training images and on nothing else" in page


def test_radii_beside_changed_images_of_votes_from_elsewhere_are_those_of_dpcleans_own(tmp_path: Path) -> None:
    """The share, the noise and tau are all that they need; without a share or without noise there are none."""
    asked: dict[str, Any] = {"classes": 3, "bound": "multiclass", "tau": "0.00001"}
    path, out = foreign(tmp_path, runs=1000, labels=np.array([2, 0, 1, -1, 0], np.int64)), tmp_path / "out"
    certify_votes(path, out, sigma="0.5", subsample_word=U, with_images="5,1,20", **asked)
    made = json.loads((out / "certificate.json").read_text())
    assert made["terms"]["with_images"] == [1, 5, 20] and made["terms"]["origin"] == "external"
    first = made["points"][0]
    radii = [float(first["certified_radius"]), *(float(at["certified_radius"]) for at in first["with_images"])]
    assert radii == sorted(radii, reverse=True) and radii[0] > radii[1] > radii[3] > 0
    assert verify(out).certified == 1 and verify(out, Mixture(changed=5, radius="0.5")).withstood is not None
    table = np.full((1000, 1), 2)
    own = ballot(table, sigma="0.5", subsample=U, with_images=[1, 5, 20], bound="multiclass")
    (tmp_path / "own.safetensors").write_bytes(votes_bytes(own))
    certify_votes(tmp_path / "own.safetensors", tmp_path / "own", with_images="1,5,20")
    dpcleans = json.loads((tmp_path / "own/certificate.json").read_text())["points"][0]
    wanted = [float(dpcleans["certified_radius"]), *(float(at["certified_radius"]) for at in dpcleans["with_images"])]
    assert radii == pytest.approx(wanted, rel=2e-3)  # of another tau
    with pytest.raises(ConflictError, match="with_images 1,5,20"):
        certify_votes(tmp_path / "own.safetensors", tmp_path / "other", with_images=7)
    for wrong in ({"sigma": "0.5"}, {"sigma": "0", "subsample_word": U}):
        with pytest.raises(UsageError, match="beside changed images"):
            certify_votes(path, tmp_path / "other", with_images="1", **asked, **wrong)


@pytest.mark.parametrize("word", [0, -1, WORD, 2**70])
def test_a_word_that_is_no_share_is_refused(tmp_path: Path, word: int) -> None:
    with pytest.raises(UsageError, match="from 1 to 4294967295") as refused:
        certify_votes(foreign(tmp_path), tmp_path / "out", classes=3, sigma="0", subsample_word=word)
    assert "85899345" in refused.value.remedy and not list(tmp_path.glob("*out*"))


def test_a_share_of_votes_is_a_word_and_no_decimal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    foreign(tmp_path)
    assert command(tmp_path, "--subsample", "0.02") == 2
    assert "--subsample-word" in capsys.readouterr().err
    assert command(tmp_path, "--subsample-word", "85899345") == 0
    assert run(["certify", "nothing", "--subsample-word", "5"]) == 2
    assert "has a meaning with --votes only" in capsys.readouterr().err


def test_the_share_of_dpcleans_own_votes_is_theirs(tmp_path: Path) -> None:
    for name, terms, cast in (("all", {}, "all images in every run"), ("some", {"subsample": U}, f"word {U}")):
        own = tmp_path / f"{name}.safetensors"
        own.write_bytes(votes_bytes(ballot(np.zeros((1000, 1)), **terms)))
        with pytest.raises(ConflictError, match=cast):
            certify_votes(own, tmp_path / "out", subsample_word=U + 1, exploratory=True)
    certify_votes(tmp_path / "some.safetensors", tmp_path / "out", subsample_word=U)
    made = json.loads((tmp_path / "out/certificate.json").read_text())
    assert made["terms"]["subsample"] == U and made["points"][0]["images_inserted"] == 100  # as many as there are
