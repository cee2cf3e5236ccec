"""What a run on a share of the images may depend on: what it took, in order, constants, and its own randomness."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dpclean.certificate.verify import verify
from dpclean.certificate.votes import ABSTAIN, read_votes
from dpclean.certificate.whole_images import WORD
from dpclean.certify import training_runs
from dpclean.certify.data import Data
from dpclean.certify.dry_run import dry_run
from dpclean.certify.job import FIRST_FAILED, certify
from dpclean.certify.run_tasks import RunTasks
from dpclean.certify.trainer_command import RunFailed
from dpclean.certify.training_runs import TrainingRuns
from dpclean.certify.worker import work
from dpclean.errors import InputError, SetupError
from dpclean.jobs.worker_group import WorkerGroup
from dpclean.noise.membership import members
from tests.certify.conftest import ALWAYS_RED, NEAREST_COLOUR, trainer_command, write_folder
from tests.certify.test_training_runs import KEY, SPY, make_runs, noised

SHARE = "0.3"
# a job of few runs, with a claim that needs no more
FEW: dict[str, Any] = {
    "sigma": "0", "subsample": "0.5", "runs": 8, "alpha": "0.3", "bound": "union", "device": "cpu", "workers": 1,
}  # fmt: skip
RUN = 2  # in which some are in and some are not


def with_trainer(raw: Path, tmp_path: Path, denoiser: str, program: str, **options: Any) -> TrainingRuns:
    trainer = trainer_command(tmp_path, program)
    return make_runs(raw, tmp_path, denoiser, subsample=SHARE, trainer=trainer, dtype="fp32", **options)


def taken(data: Data, number: int = RUN) -> np.ndarray:
    """bool [N]: the images that the run takes."""
    inside = np.isin(data.indices, members(KEY, number, int(float(SHARE) * WORD), 1000))
    assert 2 <= inside.sum() < len(inside)
    return inside


# ------------------------------------------------------------------------------------------- a trainer of one's own


def test_a_trainer_sees_what_its_run_took_and_by_no_number_what_it_did_not(
    raw: Path, tmp_path: Path, transparent: str
) -> None:
    """Places 0, 1, ... of the copy, a folder for each class of the job, and not a trace of the others."""
    spy = SPY.replace("SPIED", repr(str(tmp_path / "spied"))) + (
        f'\nopen({str(tmp_path / "spied")!r} + ".classes", "w").write(" ".join(sorted(p.name for p in data.iterdir())))'
    )
    runs = with_trainer(raw, tmp_path, transparent, spy)
    data, inside = runs.data, taken(runs.data)

    def seen(data: Data) -> dict[str, Any]:
        runs.prepare(data)
        runs.cast(RUN)
        assert (tmp_path / "spied.classes").read_text() == "blue green red"
        found: dict[str, Any] = json.loads((tmp_path / "spied").read_text())
        return {name: pixels for name, pixels in found.items() if "/" in name}

    as_it_is = seen(data)
    assert sorted(Path(name).name for name in as_it_is) == [f"{place:06d}.png" for place in range(inside.sum())]
    by_place = [as_it_is[name] for name in sorted(as_it_is, key=lambda name: Path(name).name)]
    for pixels, index in zip(by_place, data.indices[inside].tolist(), strict=True):
        assert np.array_equal(pixels, noised(data.train[int(np.flatnonzero(data.indices == index)[0])], RUN, index))

    garbage = np.full_like(data.train[0], 255)
    spoilt = replace(
        data,
        train=[image if kept else garbage for image, kept in zip(data.train, inside, strict=True)],
        labels=np.where(inside, data.labels, 0),
    )
    assert seen(spoilt) == as_it_is
    absent = replace(
        data,
        train=[image for image, kept in zip(data.train, inside, strict=True) if kept],
        labels=data.labels[inside],
        indices=data.indices[inside],
    )
    assert seen(absent) == as_it_is
    of_one_class = replace(data, labels=np.where(inside, 1, data.labels))
    assert {Path(name).parent.name for name in seen(of_one_class)} == {"green"}


def test_any_program_certifies_whole_images(tmp_path: Path, transparent: str) -> None:
    """From end to end, with the example that comes with dpclean, which goes on without a class."""
    raw = write_folder(write_folder(tmp_path / "raw", 6, prefix="train"), 2, first=100, prefix="test")
    example = trainer_command(tmp_path, (Path(__file__).parents[2] / "examples" / "trainer.py").read_text())
    out = tmp_path / "out"
    told = certify(raw, out, trainer=example, denoiser=transparent, **FEW | {"subsample": "0.2"})
    assert told.failed < 8 and verify(out).points == 6
    assert "Whether it fails depends on what it is given" in (out / "certificate.json").read_text()


# ------------------------------------------------------------------------------------- failures: by what was taken


def test_failing_by_what_was_taken_does_not_end_a_job(tmp_path: Path, transparent: str) -> None:
    """More than one run in twenty fails, and none is done again with other images: they vote for nobody."""
    raw = write_folder(write_folder(tmp_path / "raw", 6, prefix="train"), 2, first=100, prefix="test")
    fussy = NEAREST_COLOUR.replace("lines = []", "lines = []; assert len(list(data.rglob('*.png'))) % 2")
    out = tmp_path / "out"
    told = certify(raw, out, trainer=trainer_command(tmp_path, fussy), denoiser=transparent, seed=3,
                   seed_chosen_after_data=True, **FEW)  # fmt: skip
    votes = read_votes(out / "votes.safetensors").votes
    silent = (votes == ABSTAIN).all(axis=1)
    assert told.failed == silent.sum() and 1 <= told.failed < 8
    assert (votes[~silent] >= 0).all()


def test_a_trainer_that_never_works_ends_a_job_early(tmp_path: Path, transparent: str) -> None:
    raw = write_folder(write_folder(tmp_path / "raw", 6, prefix="train"), 1, first=100, prefix="test")
    broken = trainer_command(tmp_path, ': "$2"; exit 3')
    with pytest.raises(InputError, match=r"all of the first \d+ runs failed.*exit code 3") as refused:
        certify(raw, tmp_path / "out", trainer=broken, sigma="0", subsample="0.5", runs=1000, denoiser=transparent,
                device="cpu", workers=2)  # fmt: skip
    assert int(refused.value.message.split()[4]) >= FIRST_FAILED and "--overwrite" in refused.value.remedy


def test_runs_that_fail_while_it_looks_do_not_keep_a_job_going(
    tmp_path: Path, transparent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where runs fail fast, one does so between any two looks at the disk."""
    raw = write_folder(write_folder(tmp_path / "raw", 6, prefix="train"), 1, first=100, prefix="test")
    runs = 200

    def then_one_more_fails(look: str) -> None:
        looked = getattr(RunTasks, look)

        def at(tasks: RunTasks) -> Any:
            found = looked(tasks)
            with contextlib.suppress(StopIteration):
                tasks.give_up(next(run for run in range(runs, 0, -1) if not tasks.path(run).exists()), "exit code 3")
            return found

        monkeypatch.setattr(RunTasks, look, at)

    then_one_more_fails("done")
    then_one_more_fails("failed")
    with pytest.raises(InputError, match=r"all of the first \d+ runs failed.*exit code 3") as refused:
        certify(raw, tmp_path / "out", trainer=trainer_command(tmp_path, ': "$2"; sleep 1; exit 3'), sigma="0",
                subsample="0.5", runs=runs, denoiser=transparent, device="cpu", workers=1)  # fmt: skip
    assert FIRST_FAILED <= int(refused.value.message.split()[4]) < runs


def test_a_look_ahead_says_that_its_run_had_no_vote(raw: Path, tmp_path: Path, transparent: str) -> None:
    """As a job goes on after such a run; where all images are in every run, it would soon end."""
    broken = trainer_command(tmp_path, ': "$2"; exit 3')
    told = dry_run(raw, tmp_path / "out", trainer=broken, denoiser=transparent, **FEW)
    (warning,) = told.warnings
    assert "exit code 3" in warning and "a vote for nobody" in warning
    assert told.runs == 8 and "train and predict" in told.seconds_by_part
    parts = {"partitions": 2, "sigma": "0", "device": "cpu", "workers": 1}
    assert "exit code 3" in dry_run(raw, tmp_path / "out", trainer=broken, denoiser=transparent, **parts).warnings[0]
    with pytest.raises(RunFailed, match="exit code 3"):
        dry_run(raw, tmp_path / "out", trainer=broken, denoiser=transparent, **FEW | {"subsample": None, "sigma": "1"})


def test_a_look_ahead_says_that_its_run_took_too_little(
    raw: Path, tmp_path: Path, transparent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_runs, "FEWEST", 19)  # more than there are
    told = dry_run(raw, tmp_path / "out", denoiser=transparent, recipe="tiny", **FEW)
    assert ["too little to train on" in warning for warning in told.warnings] == [True]


def test_too_little_for_batch_norm_is_a_vote_for_nobody(
    raw: Path, tmp_path: Path, transparent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that normalises over one value cannot learn from one image: that is by what was taken."""
    monkeypatch.setattr(training_runs, "FEWEST", 1)
    runs = make_runs(raw, tmp_path, transparent, subsample=SHARE, recipe="torchvision:resnet18@32", dtype="fp32")
    data, place = runs.data, np.flatnonzero(taken(runs.data))[:1]
    runs.prepare(replace(data, train=[data.train[place[0]]], labels=data.labels[place], indices=data.indices[place]))
    assert set(runs.cast(RUN).tolist()) == {ABSTAIN} and runs.model() is None


# ---------------------------------------------------------------------------------- failures: by what else there is


@pytest.mark.parametrize(
    ("program", "word"),
    [
        (': "$2"; sleep 600', "took more than"),
        (': "$2"; kill -9 $$', "signal 9"),
        (""": "$2"; sh -c 'kill -9 $$'; exit $?""", "signal 9"),  # what a shell around it tells
    ],
)
def test_what_the_machine_ends_is_no_vote(raw: Path, tmp_path: Path, transparent: str, program: str, word: str) -> None:
    """Neither time nor memory is a function of what was taken: the job stops, and the same command goes on."""
    runs = with_trainer(raw, tmp_path, transparent, program, run_timeout=1.0)
    tasks = RunTasks(tmp_path / "work", "ab" * 32, points=9, of_shares=True)
    tasks.make_folders()
    with pytest.raises(SetupError, match=word) as refused:
        work(tasks, runs, [RUN])
    assert "no vote" in refused.value.message and not tasks.done() and not tasks.failed()


def test_too_little_memory_is_no_vote(
    raw: Path, tmp_path: Path, transparent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    runs = make_runs(raw, tmp_path, transparent, subsample=SHARE, recipe="tiny", dtype="fp32")
    tasks = RunTasks(tmp_path / "work", "ab" * 32, points=9, of_shares=True)
    tasks.make_folders()
    assert runs._trainer is not None

    def starved(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(runs._trainer, "_step_over", starved)
    with pytest.raises(SetupError, match="training failed: CUDA out of memory"):
        work(tasks, runs, [RUN])
    assert not tasks.done()


@pytest.mark.parametrize("of_shares", [False, True])
def test_a_run_that_ends_its_process_twice(tmp_path: Path, of_shares: bool) -> None:
    import subprocess
    import sys

    tasks = RunTasks(tmp_path, "ab" * 32, points=3, of_shares=of_shares)
    tasks.make_folders()
    dies = (
        "import os, sys; from pathlib import Path; from dpclean.certify.run_tasks import RunTasks\n"
        f"tasks = RunTasks(Path({str(tmp_path)!r}), {'ab' * 32!r}, points=3, worker=sys.argv[1])\n"
        "with tasks.claim(1): os.kill(os.getpid(), 9)"
    )

    def start(worker: str, _: str) -> subprocess.Popen[bytes]:
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        return subprocess.Popen([sys.executable, "-c", dies, worker], **pipes)

    with WorkerGroup(tasks, 1, ["here"], start) as workers:
        if of_shares:
            with pytest.raises(SetupError, match="ended its process twice, by signal 9, and no vote"):
                workers.watch(lambda: None, lambda: False)
        else:
            assert workers.watch(lambda: None, lambda: False)
    assert tasks.done() == (set() if of_shares else {1})


# ----------------------------------------------------------------------------------------- what is fixed, and shapes


def test_images_of_any_shape_are_trained_on(raw: Path, tmp_path: Path, transparent: str) -> None:
    """An attacker's images may have any shape: the size is a constant of the job, not a look at all images."""
    runs = make_runs(raw, tmp_path, transparent, subsample=SHARE, recipe="tiny", dtype="fp32")
    data, inside = runs.data, taken(runs.data)
    odd = [(16, 24, 3), (40, 9, 3), (1, 1, 3)]
    shapes = np.flatnonzero(inside)[: len(odd)].tolist()
    train = list(data.train)
    for place, shape in zip(shapes, odd, strict=False):
        train[place] = np.full(shape, 99, np.uint8)
    runs.prepare(replace(data, train=train))
    assert set(runs.cast(RUN).tolist()) <= {0, 1, 2}


def test_what_was_chosen_is_in_the_terms_before_run_1(raw: Path, tmp_path: Path, transparent: str) -> None:
    """Share, classes, size, recipe: no run looks for them in the data that it took or did not take."""
    certify(raw, tmp_path / "out", denoiser=transparent, **FEW)
    terms = json.loads((tmp_path / "out" / "certificate.json").read_text())["terms"]
    assert terms["subsample"] == WORD // 2 and terms["classes"] == ["blue", "green", "red"]
    assert terms["size"] == 16 and terms["recipe"]["name"] and terms["decode"]["limit"] is None
    said = (tmp_path / "out" / "certificate.json").read_text()
    assert "What was chosen by looking at the data: the share, the classes, the size, the recipe" in said


def test_which_images_a_run_takes_has_words_of_its_own(raw: Path, tmp_path: Path, transparent: str) -> None:
    """Neither noise nor training shares its random numbers with the draw of the images."""
    runs = make_runs(raw, tmp_path, transparent, subsample=SHARE, recipe="tiny", dtype="fp32")
    before = runs.cast(RUN)
    subkey = members.__globals__["subkey"]
    asked: list[str] = []

    def noted(key: bytes, purpose: str) -> bytes:
        asked.append(purpose)
        return subkey(key, purpose)

    members.__globals__["subkey"] = noted
    try:
        assert np.array_equal(runs.cast(RUN), before)
    finally:
        members.__globals__["subkey"] = subkey
    assert asked == ["subsample"]


def test_without_noise_no_word_is_said_about_gaussians(raw: Path, tmp_path: Path, transparent: str) -> None:
    certify(raw, tmp_path / "out", denoiser=transparent, trainer=trainer_command(tmp_path, ALWAYS_RED), **FEW)
    made = json.loads((tmp_path / "out" / "certificate.json").read_text())
    said = " ".join(made["assumptions"])
    assert "Gaussian" not in said and "Which images a run takes" in said and "ChaCha20" in said
