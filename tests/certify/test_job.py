"""Whole certification jobs: the same votes whoever does them and however often they are killed; nothing raw leaks."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import structs
from safetensors.numpy import load_file, save_file

import dpclean
from dpclean import cli
from dpclean.certificate.verify import verify
from dpclean.certificate.votes import read_votes, votes_bytes
from dpclean.certify.job import certify
from dpclean.certify.predict import predict
from dpclean.certify.results import CertifyResult
from dpclean.certify.save import write_outputs
from dpclean.certify.workdir import BegunJob, Workdir
from dpclean.certify.worker import open_runs
from dpclean.errors import ConflictError, DifferenceError, InputError, Interrupted, UsageError
from dpclean.jobs.key_file import read_key
from dpclean.jobs.staging import Staging
from dpclean.noise.keys import key_from_seed
from tests.certificate.ballots import recorded
from tests.certify.conftest import ALWAYS_RED, NEAREST_COLOUR, trainer_command, write_folder

SEED: dict[str, Any] = {"seed": 5, "seed_chosen_after_data": True}
RUNS = 20
# more than a test waits for
MANY: dict[str, Any] = {"runs": 5000, "bound": "union", "alpha": "0.001"}
# a few runs suffice for a claim where one in ten may be false
FEW: dict[str, Any] = {"runs": 6, "bound": "union", "alpha": "0.1"}
CLEAN: dict[str, Any] = {"workers": 1, "device": "cpu", **FEW}  # and no more


def run(raw: Path, out: Path, denoiser: str, **options: Any) -> CertifyResult:
    """A job that can be repeated: its key comes from a seed."""
    fixed = {"sigma": "0.25", "denoiser": denoiser, "workers": 1, "device": "cpu", "batch_size": 8}
    return certify(raw, out, **{**fixed, **SEED, **FEW, **options})


def votes_of(out: Path) -> list[list[int]]:
    votes: list[list[int]] = load_file(out / "votes.safetensors")["votes"].tolist()
    return votes


def command(raw: Path, out: Path, denoiser: str, *more: str) -> list[str]:
    """The same job as a command line, with two runs at once."""
    fixed = ["--sigma", "0.25", "--denoiser", denoiser, "--workers", "2", "--device", "cpu", "--batch-size", "8"]
    fixed += ["--runs", "6", "--bound", "union", "--alpha", "0.1"]
    seed = ["--seed", "5", "--seed-chosen-after-data"]
    return [sys.executable, "-m", "dpclean", "certify", str(raw), "--out", str(out), *fixed, *seed, "--quiet", *more]


def printed(capsys: pytest.CaptureFixture[str], line: list[str]) -> dict[str, Any]:
    """What a command line that ends well prints with --json, run in this process."""
    capsys.readouterr()
    assert cli.run([*line[3:], "--json"]) == 0
    made: dict[str, Any] = json.loads(capsys.readouterr().out)
    return made


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, transparent: str) -> list[list[int]]:
    """The votes of 9 runs of the trainer of colours on the raw data, by one command that nothing disturbed."""
    root = tmp_path_factory.mktemp("whole")
    write_folder(write_folder(root / "raw", 6, prefix="train"), 3, first=100, prefix="test")
    run(root / "raw", root / "out", transparent, trainer=trainer_command(root, NEAREST_COLOUR), runs=9)
    return votes_of(root / "out")


def test_a_job_from_end_to_end(raw: Path, tmp_path: Path, transparent: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The built-in trainer, several runs at once, a certificate that verifies; the second call finds it complete."""
    out = tmp_path / "certificate"
    line = command(raw, out, transparent, "--recipe", "tiny@12")
    first = printed(capsys, line)
    assert (first["runs"], first["points"], first["failed"]) == (6, 9, 0)
    assert {path.name for path in out.iterdir()} == {
        "votes.safetensors",
        "certificate.json",
        "certified.tsv",
        "curve.svg",
        "curve.png",
        "report.html",
    }
    assert verify(out).runs == 6
    assert printed(capsys, line)["already_complete"]


@pytest.fixture
def trainer(tmp_path: Path) -> str:
    return trainer_command(tmp_path, ALWAYS_RED)


@pytest.fixture
def colours(tmp_path: Path) -> str:
    """A trainer whose votes depend on the noise."""
    return trainer_command(tmp_path, NEAREST_COLOUR)


def test_any_program_can_train(whole: list[list[int]]) -> None:
    votes, labels = np.array(whole), np.repeat([0, 1, 2], 3)
    assert (votes >= 0).all() and (votes == labels).mean() > 0.5


def test_a_killed_job_goes_on_and_ends_with_the_same_votes(
    raw: Path,
    tmp_path: Path,
    transparent: str,
    colours: str,
    whole: list[list[int]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "killed"
    line = command(raw, out, transparent, "--trainer", colours, "--workers", "1")
    process = subprocess.Popen(line)
    runs = Staging(out).work / "results"
    while len(list(runs.glob("*/*"))) < 2:
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert not out.exists()
    assert 0 < printed(capsys, line)["runs_done_now"] < 6
    assert votes_of(out) == whole[:6]


def test_two_commands_share_the_runs(
    raw: Path,
    tmp_path: Path,
    transparent: str,
    colours: str,
    whole: list[list[int]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "shared"
    line = command(raw, out, transparent, "--trainer", colours, "--workers", "1")
    beside = subprocess.Popen([*line, "--json"], stdout=subprocess.PIPE, text=True)
    here = printed(capsys, line)
    there = json.loads(beside.communicate(timeout=900)[0])
    assert here["runs"] == there["runs"] == 6
    assert votes_of(out) == whole[:6]


def begun_job(raw: Path, tmp_path: Path, denoiser: str, **options: Any) -> tuple[Workdir, BegunJob, bytes]:
    """A job that was begun and stopped by a signal before its runs were done."""
    out = tmp_path / "begun"

    asked: list[object] = []

    def stop(step: object) -> None:
        if not asked:  # a second signal would stop at once
            os.kill(os.getpid(), signal.SIGINT)
        asked.append(step)

    with pytest.raises(Interrupted):
        certify(
            raw,
            out,
            sigma="0.25",
            denoiser=denoiser,
            workers=1,
            device="cpu",
            batch_size=8,
            progress=stop,
            **SEED,
            **MANY,
            **options,
        )
    staging = Staging(out)
    job = Workdir(staging).begun()
    assert job is not None
    return Workdir(staging), job, read_key(staging.key)


def test_an_interrupted_job_leaves_no_certificate_and_has_its_key_after_its_data(
    raw: Path, tmp_path: Path, transparent: str, trainer: str
) -> None:
    workdir, job, key = begun_job(raw, tmp_path, transparent, trainer=trainer)
    assert not (tmp_path / "begun").exists()
    data, key_file = workdir.work / "data.safetensors", Staging(tmp_path / "begun").key
    assert data.stat().st_mtime_ns <= key_file.stat().st_mtime_ns
    assert job.parameters.order == ["digest of the data fixed", "key drawn"] and job.parameters.attempt == 1
    assert key == key_from_seed(5, "certify") != key_from_seed(5, "sanitize")


def test_where_images_differ_from_those_of_an_interrupted_job_is_told(
    raw: Path, tmp_path: Path, transparent: str, trainer: str
) -> None:
    begun_job(raw, tmp_path, transparent, trainer=trainer)
    asked = {"sigma": "0.25", "denoiser": transparent, "device": "cpu", "trainer": trainer, **SEED, **MANY}
    for name, what, where in (
        ("train/green/000.png", "training", "comes after 'train/blue/005.png'"),
        ("test/blue/100.png", "test", "is the first one"),
    ):
        image = (raw / name).read_bytes()
        (raw / name).unlink()
        with pytest.raises(ConflictError, match=f"begun with other {what} images: the first that .* {where}"):
            certify(raw, tmp_path / "begun", workers=1, **asked)
        (raw / name).write_bytes(image)


def test_too_many_failed_runs_stop_the_job(raw: Path, tmp_path: Path, transparent: str) -> None:
    trainer = trainer_command(tmp_path, 'echo "no luck $2"; exit 3')
    with pytest.raises(InputError) as refused:
        run(raw, tmp_path / "out", transparent, trainer=trainer)
    assert "one in twenty" in refused.value.message and "exit code 3: no luck" in refused.value.message
    assert not (tmp_path / "out").exists()


def test_a_run_that_kills_its_worker_twice_is_a_vote_for_nobody(raw: Path, tmp_path: Path, transparent: str) -> None:
    murder = 'case "$3" in */0000003/out) kill -9 $PPID;; esac' + ALWAYS_RED
    result = run(raw, tmp_path / "out", transparent, trainer=trainer_command(tmp_path, murder), runs=RUNS)
    assert result.failed == 1
    assert votes_of(tmp_path / "out")[2] == [-1] * 9


@pytest.mark.parametrize(
    "changed",
    [
        {"sigma": "0.5"},
        {"alpha": "0.2"},
        {"bound": "cohen"},
        {"threat": "noised-test"},
        {"runs": 16},
        {"runs": 5},
        {"seed": 6},
        {"trainer": None},
        {"method": "ddim:2"},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_nothing_may_change_after_the_first_run(finished: dict[str, Any], changed: dict[str, Any]) -> None:
    out = Path(finished["out"])
    before = (out / "certificate.json").read_bytes()
    with pytest.raises(ConflictError) as refused:
        run(**{**finished, **changed})
    name = {"trainer": "recipe", "method": "denoiser"}.get(*[next(iter(changed))] * 2)
    assert name in refused.value.message
    assert (out / "certificate.json").read_bytes() == before


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, transparent: str) -> dict[str, Any]:
    """The arguments of a job that is done."""
    root = tmp_path_factory.mktemp("finished")
    write_folder(root / "raw", 6, prefix="train")
    write_folder(root / "raw", 3, first=100, prefix="test")
    trainer = trainer_command(root, ALWAYS_RED)
    arguments = {"raw": root / "raw", "out": root / "out", "denoiser": transparent, "trainer": trainer}
    run(**arguments)
    return arguments


@pytest.mark.parametrize("how", ["added", "permuted"])
def test_changed_raw_data_are_another_job(
    raw: Path, tmp_path: Path, transparent: str, finished: dict[str, Any], how: str
) -> None:
    shutil.copytree(finished["out"], tmp_path / "out")
    if how == "added":
        write_folder(raw, 1, first=300, prefix="train")
    else:
        first, second = raw / "train/red/000.png", raw / "train/red/001.png"
        shutil.move(first, tmp_path / "aside")
        shutil.move(second, first)
        shutil.move(tmp_path / "aside", second)
    with pytest.raises(ConflictError) as refused:
        run(raw, tmp_path / "out", transparent, trainer=finished["trainer"])
    assert "raw" in refused.value.message


def test_anytime_takes_more_runs_and_keeps_the_old_ones(
    raw: Path, tmp_path: Path, transparent: str, colours: str, whole: list[list[int]]
) -> None:
    out, options = tmp_path / "out", {"trainer": colours, "bound": "anytime"}
    first = run(raw, out, transparent, **options)
    assert votes_of(out) == whole[:6]
    more = run(raw, out, transparent, **options, runs=9)
    assert (first.runs, more.runs, more.runs_done_now) == (6, 9, 3)
    assert votes_of(out) == whole
    assert float(more.ceiling) > float(first.ceiling)
    assert verify(out).runs == 9


def test_sanitized_data_name_what_is_certified(raw: Path, tmp_path: Path, transparent: str, trainer: str) -> None:
    """CLEAN's manifest says raw data, sigma, denoiser, method; the key is the job's own; --raw finds what moved."""
    clean = tmp_path / "clean"
    dpclean.sanitize(raw, clean, sigma=0.25, denoiser=transparent, device="cpu", seed=5, method="ddim:2")
    raw.rename(tmp_path / "moved")
    with pytest.raises(InputError):
        certify(clean, tmp_path / "out", trainer=trainer, denoiser=transparent, **CLEAN)
    result = certify(clean, tmp_path / "out", raw=tmp_path / "moved", trainer=trainer, denoiser=transparent, **CLEAN)
    terms = json.loads((tmp_path / "out/certificate.json").read_text())["terms"]
    assert result.runs == 6 and terms["sigma"] == "0.25" and terms["seed"] is None
    manifest = json.loads((clean / "dpclean.json").read_text())
    assert terms["denoiser"]["method"] == manifest["denoiser"]["method"] == "ddim:2"
    assert terms["raw"]["pixel_digest"] == manifest["raw"]["pixel_digest"]
    assert terms["key_commitment"] != manifest["noise"]["key_commitment"]


def test_raw_data_other_than_those_sanitized_are_refused_until_clean_is_updated(
    raw: Path, tmp_path: Path, transparent: str, trainer: str
) -> None:
    clean = tmp_path / "clean"
    dpclean.sanitize(raw, clean, sigma=0.25, denoiser=transparent, device="cpu")
    shutil.copy(raw / "train/red/000.png", raw / "train/red/001.png")
    with pytest.raises(InputError) as refused:
        certify(clean, tmp_path / "out", trainer=trainer, denoiser=transparent, **CLEAN)
    assert "digest" in refused.value.message
    assert not Staging(tmp_path / "out").key.exists()
    dpclean.sanitize(raw, clean, sigma=0.25, denoiser=transparent, device="cpu", update=True)
    certify(clean, tmp_path / "out", trainer=trainer, denoiser=transparent, **CLEAN)
    terms = json.loads((tmp_path / "out/certificate.json").read_text())["terms"]
    manifest = json.loads((clean / "dpclean.json").read_text())
    assert terms["raw"]["pixel_digest"] == manifest["raw"]["pixel_digest"] and manifest["noise"]["runs"]["1"] == 1
    assert verify(tmp_path / "out").runs == 6


def test_data_with_planes_kept_as_they_were_are_refused(
    raw: Path, tmp_path: Path, transparent: str, trainer: str
) -> None:
    clean = tmp_path / "clean"
    dpclean.sanitize(raw, clean, sigma=0.25, denoiser=transparent, device="cpu", alpha_policy="keep")
    with pytest.raises(InputError) as refused:
        certify(clean, tmp_path / "out", trainer=trainer, denoiser=transparent, **CLEAN)
    assert "keep" in refused.value.message


def test_a_denoiser_that_saw_the_data_is_refused(raw: Path, tmp_path: Path, transparent: str, trainer: str) -> None:
    """Its ancestry file has the first 8 bytes of each image's pixel hash; one in common is enough."""
    from dpclean.data.ancestry import Ancestry
    from dpclean.data.dataset import read_images
    from dpclean.data.digest import pixel_sha256

    tainted = tmp_path / "tainted"
    shutil.copytree(transparent, tainted)
    others = Ancestry.of(os.urandom(8) for _ in range(50))
    (tainted / "dpclean.ancestry").write_bytes(others.dump())
    run(raw, tmp_path / "fine", str(tainted), trainer=trainer)
    seen = pixel_sha256(read_images(raw).pixels[20])[:8]
    (tainted / "dpclean.ancestry").write_bytes((others | Ancestry.of([seen])).dump())
    with pytest.raises(InputError) as refused:
        run(raw, tmp_path / "out", str(tainted), trainer=trainer)
    assert "1 of the images to be" in refused.value.message


def test_a_process_that_would_do_other_runs_is_refused(
    raw: Path, tmp_path: Path, transparent: str, trainer: str
) -> None:
    """Another library, another key: the runs would not be alike, and no vote is cast."""
    workdir, job, _ = begun_job(raw, tmp_path, transparent, trainer=trainer)
    before = workdir.tasks(job.parameters).done()
    key = Staging(tmp_path / "begun").key
    right = key.read_bytes()
    arguments = {"raw": raw, "out": tmp_path / "begun", "denoiser": transparent, "trainer": trainer}
    key.write_bytes(b"00" * 32 + b"\n")
    with pytest.raises(ConflictError) as refused:
        run(**arguments, **MANY)
    assert "key" in refused.value.message
    key.write_bytes(right)
    edit_job(workdir, lambda record: record["environment"]["versions"].update(torch="1.0"))
    with pytest.raises(ConflictError) as refused:
        run(**arguments, **MANY)
    assert "begun with versions torch 1.0; " in refused.value.message
    assert workdir.tasks(job.parameters).done() == before


@pytest.mark.parametrize("how", ["trained on RAW's copy", "warm start"])
def test_weights_that_saw_the_data_are_refused(raw: Path, tmp_path: Path, transparent: str, how: str) -> None:
    from dpclean.classifier_training.job import train

    clean = tmp_path / "clean"
    dpclean.sanitize(raw, clean, sigma=0.25, denoiser=transparent, device="cpu")
    begun = {"warm_start": raw, "warm_epochs": 1} if how == "warm start" else {}
    train(clean, tmp_path / "model", recipe="tiny", device="cpu", **begun)
    with pytest.raises(InputError) as refused:
        run(raw, tmp_path / "out", transparent, init=str(tmp_path / "model"))
    assert ("not certifiable" if begun else "27 of the images") in refused.value.message


@pytest.mark.parametrize(
    ("options", "error", "word"),
    [
        ({"sigma": "0"}, UsageError, "sigma"),
        ({"sigma": "0,25"}, UsageError, "decimal"),
        ({"sigma": "nan"}, UsageError, "decimal"),
        ({"sigma": "-1"}, UsageError, "from 0 to 4"),
        ({"sigma": "25"}, UsageError, "from 0 to 4"),
        ({"sigma": "0.0001"}, UsageError, "too small"),
        ({"alpha": "0.95"}, UsageError, "alpha"),
        ({"alpha": "99"}, UsageError, "alpha"),
        ({"alpha": "nan"}, UsageError, "alpha"),
        ({"runs": 5, "bound": "multiclass", "alpha": "0.001"}, UsageError, "16"),
        ({"runs": 10, "bound": "union", "alpha": "0.001"}, UsageError, "11"),
        ({"seed_chosen_after_data": False}, UsageError, "seed"),
        ({"bound": "majority"}, UsageError, "multiclass"),
        ({"trainer": "python train.py"}, UsageError, "{data}"),
    ],
    ids=str,
)
def test_what_proves_nothing_is_refused_before_anything_is_written(
    raw: Path, tmp_path: Path, transparent: str, options: dict[str, Any], error: type[Exception], word: str
) -> None:
    with pytest.raises(error) as refused:
        run(raw, tmp_path / "out", transparent, **options)
    told = f"{refused.value.message} {refused.value.remedy}"  # type: ignore[attr-defined]
    assert word in told
    assert not list(tmp_path.glob("*out*"))


def test_a_class_without_training_images_is_refused(raw: Path, tmp_path: Path, transparent: str) -> None:
    shutil.rmtree(raw / "train/red")
    with pytest.raises(InputError) as refused:
        run(raw, tmp_path / "out", transparent)
    assert "'red'" in refused.value.message


def test_test_images_that_were_trained_on_are_warned_about(
    raw: Path, tmp_path: Path, transparent: str, trainer: str
) -> None:
    shutil.copy(raw / "train/red/000.png", raw / "test/red/999.png")
    result = run(raw, tmp_path / "out", transparent, trainer=trainer)
    assert any("1 test points" in warning for warning in result.warnings)


def reversed_labels(workdir: Workdir) -> None:
    path = workdir.work / "data.safetensors"
    tensors = load_file(path)
    tensors["train.labels"] = np.ascontiguousarray(tensors["train.labels"][::-1])
    save_file(tensors, path)


def pixel_of_a_point(workdir: Workdir) -> None:
    path = workdir.work / "data.safetensors"
    tensors = load_file(path)
    tensors["points.pixels"][0] ^= 1
    save_file(tensors, path)


def other_shapes(workdir: Workdir) -> None:
    path = workdir.work / "data.safetensors"
    tensors = load_file(path)
    tensors["train.shapes"][0] = (8, 32, 3)
    save_file(tensors, path)


def cut(workdir: Workdir) -> None:
    path = workdir.work / "data.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def other_timeout(workdir: Workdir) -> None:
    edit_job(workdir, lambda record: record["found"]["settings"].update(run_timeout=0.001))


def other_settings(workdir: Workdir) -> None:
    edit_job(workdir, lambda record: record["found"]["settings"].update(sigma="0.01"))


def other_form(workdir: Workdir) -> None:
    edit_job(workdir, lambda record: record["parameters"].update(values=None))


def edit_job(workdir: Workdir, change: Callable[[dict[str, Any]], None]) -> None:
    path = workdir.staging.record
    job = json.loads(path.read_text())
    change(job)
    path.write_text(json.dumps(job))


EDITS = [reversed_labels, pixel_of_a_point, other_shapes, cut, other_timeout, other_settings, other_form]


def test_whatever_a_run_reads_is_what_the_job_was_begun_with(
    raw: Path, tmp_path: Path, transparent: str, trainer: str
) -> None:
    """Between two commands of one job somebody edits its folder: no worker begins, and no vote is cast from it."""
    workdir, job, key = begun_job(raw, tmp_path, transparent, trainer=trainer)
    before = workdir.tasks(job.parameters).done()
    kept = {path: path.read_bytes() for path in (workdir.work / "data.safetensors", workdir.staging.record)}
    for edit in EDITS:
        edit(workdir)
        with pytest.raises((InputError, ConflictError)):
            begun = workdir.begun()
            assert begun is not None
            open_runs(workdir, begun, key, "cpu")
        for path, content in kept.items():
            path.write_bytes(content)
    reversed_labels(workdir)
    with pytest.raises(InputError, match="labels"):
        run(raw, tmp_path / "begun", transparent, trainer=trainer, **MANY)
    assert workdir.tasks(job.parameters).done() == before


def test_another_folder_is_never_replaced(raw: Path, tmp_path: Path, transparent: str, trainer: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.txt").write_text("precious")
    with pytest.raises(ConflictError):
        run(raw, tmp_path / "out", transparent, trainer=trainer, overwrite=True)
    assert (tmp_path / "out/thesis.txt").read_text() == "precious"


@pytest.fixture(scope="module")
def with_models(tmp_path_factory: pytest.TempPathFactory, transparent: str) -> tuple[Path, Path]:
    """(raw data, a certificate of the built-in trainer with its models)."""
    root = tmp_path_factory.mktemp("models")
    write_folder(root / "raw", 6, prefix="train")
    write_folder(root / "raw", 3, first=100, prefix="test")
    run(root / "raw", root / "out", transparent, keep_models=True, recipe="tiny@12")
    return root / "raw", root / "out"


def test_kept_models_vote_on_new_images(with_models: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """On the points of the certificate itself the kept models give its classes and radii again."""
    raw, out = with_models
    assert cli.run(["predict", str(out / "certificate.json"), str(raw / "test"), "--json"]) == 0
    predictions = json.loads(capsys.readouterr().out)["predictions"]
    points = json.loads((out / "certificate.json").read_text())["points"]
    classes = ("blue", "green", "red")
    assert [(p["class"], p["certified_radius"], p["votes"]) for p in predictions] == [
        (None if p["class"] < 0 else classes[p["class"]], p["certified_radius"], p["k_a"]) for p in points
    ]
    assert len(points) == 9 and verify(out).runs == 6


def without(out: Path) -> None:
    (out / "models/0000002.safetensors").unlink()


def copied(out: Path) -> None:
    shutil.copy(out / "models/0000001.safetensors", out / "models/0000002.safetensors")


def damaged(out: Path) -> None:
    path = out / "models/0000002.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")


def larger_sigma(out: Path) -> None:
    path = out / "votes.safetensors"
    path.write_bytes(path.read_bytes().replace(b'\\"sigma\\":\\"0.25\\"', b'\\"sigma\\":\\"1.25\\"'))


def failed_run(out: Path) -> None:
    """A run without its model, said to have failed, all records made anew: the votes no longer give the certificate."""
    (out / "models/0000002.safetensors").unlink()
    votes = read_votes(out / "votes.safetensors")
    assert votes.models is not None
    votes.votes[1], votes.models[1] = -1, 0
    (out / "votes.safetensors").write_bytes(votes_bytes(recorded(votes)))


def no_weights(out: Path) -> None:
    """Everything made to fit what no model is."""
    votes = read_votes(out / "votes.safetensors")
    assert votes.models is not None
    (out / "models/0000002.safetensors").write_bytes(b"no weights")
    votes.models[1] = np.frombuffer(hashlib.sha256(b"no weights").digest(), np.uint8)
    write_outputs(out, recorded(votes), [])


def no_recipe(out: Path) -> None:
    votes = read_votes(out / "votes.safetensors")
    recipe = {"name": "x", "size": None}
    write_outputs(out, recorded(replace(votes, parameters=structs.replace(votes.parameters, recipe=recipe))), [])


@pytest.mark.parametrize("change", [without, copied, damaged, larger_sigma, failed_run, no_weights, no_recipe])
def test_models_that_did_not_vote_in_the_certificate_are_refused(
    tmp_path: Path, with_models: tuple[Path, Path], change: Callable[[Path], None]
) -> None:
    raw, out = with_models
    shutil.copytree(out, tmp_path / "out")
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    change(tmp_path / "out")
    assert before != {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    with pytest.raises((InputError, DifferenceError)):
        predict(tmp_path / "out", raw / "test")


def test_a_run_that_failed_has_no_model_and_no_vote(tmp_path: Path, with_models: tuple[Path, Path]) -> None:
    raw, out = with_models
    shutil.copytree(out, tmp_path / "out")
    votes = read_votes(out / "votes.safetensors")
    assert votes.models is not None
    votes.votes[1], votes.models[1] = -1, 0
    write_outputs(tmp_path / "out", recorded(votes), [])
    (tmp_path / "out/models/0000002.safetensors").unlink()
    whole, fewer = predict(out, raw / "test"), predict(tmp_path / "out", raw / "test")
    assert all(after.votes in (before.votes, before.votes - 1) for before, after in zip(whole, fewer, strict=True))
    assert len(fewer) == 9


def test_an_attempt_that_was_dropped_halfway_counts_and_the_job_is_told_beforehand(
    raw: Path, tmp_path: Path, transparent: str, trainer: str
) -> None:
    workdir, _, _ = begun_job(raw, tmp_path, transparent, trainer=trainer)
    workdir.staging.record.write_text("damaged")  # whatever it said, there was one
    said: list[str] = []
    out, options = tmp_path / "begun", {"trainer": trainer, "overwrite": True, "say": said.append}
    second = run(raw, out, transparent, **options)
    assert second.attempt == 2
    (sentence,) = (sentence for sentence in said if sentence.startswith("job "))
    assert second.job in sentence and "attempt 2" in sentence
    assert json.loads((out / "certificate.json").read_text())["job"] == second.job == verify(out).job


def test_overwrite_replaces_a_certificate_by_a_job_of_its_own(
    tmp_path: Path, transparent: str, finished: dict[str, Any]
) -> None:
    shutil.copytree(finished["out"], tmp_path / "out")
    result = run(**{**finished, "out": tmp_path / "out"}, alpha="0.2", overwrite=True)
    assert (result.runs_done_now, result.already_complete) == (6, False)
    terms = json.loads((tmp_path / "out/certificate.json").read_text())["terms"]
    assert (terms["alpha"], terms["attempt"], result.attempt) == ("0.2", 2, 2)
    assert any("attempt 2" in warning for warning in result.warnings)
    assert any("attempt 2" in warning for warning in verify(tmp_path / "out").warnings)
    assert {path.name for path in tmp_path.iterdir()} == {"out", ".out.dpclean"}
