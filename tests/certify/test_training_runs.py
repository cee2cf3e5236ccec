"""One run: what a trainer gets to see, what a run depends on, and how it may fail."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from safetensors.numpy import load_file, save_file

import dpclean
from dpclean.build import build
from dpclean.certify.data import Data
from dpclean.certify.inputs import find_source, read_certified_data
from dpclean.certify.options import CertifyOptions
from dpclean.certify.parameters import make_parameters
from dpclean.certify.run_settings import make_run_settings
from dpclean.certify.run_tasks import RunTasks
from dpclean.certify.runs_on_images import engine
from dpclean.certify.trainer_command import RunFailed
from dpclean.certify.training_runs import TrainingRuns
from dpclean.certify.worker import work
from dpclean.data.dataset import read_images
from dpclean.noise import add_noise
from tests.certify.conftest import ALWAYS_RED, trainer_command

KEY = bytes(range(32))


def make_runs(raw: Path, scratch: Path, denoiser: str, **options: Any) -> TrainingRuns:
    """What does the runs of a job, in this process."""
    asked = CertifyOptions(**{"sigma": "0.25", "denoiser": denoiser, "device": "cpu", **options})
    subject = read_certified_data(find_source(raw, asked), asked)
    settings = make_run_settings(subject, asked, make_parameters(subject, asked))
    runs = TrainingRuns(settings, subject.classes, KEY, scratch / "scratch")
    runs.prepare(Data.of(subject.train, subject.points, subject.division))
    return runs


def test_a_run_depends_on_its_number_only(raw: Path, tmp_path: Path, transparent: str) -> None:
    """The built-in trainer: neither the runs before it nor their order change a vote or a weight of its model.

    That other runs are other runs is seen in their weights: on few points their votes may well agree.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        runner = make_runs(raw, tmp_path, transparent, keep_models=True)

        def done(number: int) -> tuple[list[int], bytes | None]:
            return runner.cast(number).tolist(), runner.model()

        first = {number: done(number) for number in (1, 2)}
        assert [done(number) for number in (2, 1)] == [first[2], first[1]]
    finally:
        torch.set_num_threads(threads)
    assert first[1][1] != first[2][1]


def test_the_engine_names_the_code_and_its_libraries(raw: Path, tmp_path: Path, transparent: str) -> None:
    versions = engine(make_runs(raw, tmp_path, transparent).denoiser, 1)["versions"]
    assert versions["dpclean"] == build() != dpclean.__version__
    assert (versions["torch"], versions["numpy"]) == (torch.__version__, np.__version__)
    assert torchvision.__version__.partition("+")[0] == versions["torchvision"]


SPY = """
import sys, json
from pathlib import Path
import numpy as np
from PIL import Image
data, test, out = map(Path, sys.argv[1:4])
listing = {str(p.relative_to(root)): np.asarray(Image.open(p)).tolist()
           for root in (data, test) for p in sorted(root.rglob("*")) if p.is_file()}
open(SPIED, "w").write(json.dumps(listing))
(out / "predictions.tsv").write_text("".join(p.name + "\\tred\\n" for p in sorted(test.iterdir())))
"""


def spied(raw: Path, tmp_path: Path, denoiser: str, **options: Any) -> dict[str, Any]:
    """Every file that a trainer program gets to see in run 6, and what is in it."""
    spy = trainer_command(tmp_path, SPY.replace("SPIED", repr(str(tmp_path / "spied"))))
    make_runs(raw, tmp_path, denoiser, trainer=spy, dtype="fp32", **options).cast(6)
    listing: dict[str, Any] = json.loads((tmp_path / "spied").read_text())
    return listing


def noised(image: np.ndarray, run: int, index: int, *, test: bool = False) -> np.ndarray:
    return np.clip(add_noise(image[None], 0.25, key=KEY, run=run, indices=[index], test=test)[0], 0, 255)


def training_images(raw: Path) -> list[np.ndarray]:
    return read_images(raw).pixels


def test_a_trainer_sees_sanitized_images_and_nothing_else(raw: Path, tmp_path: Path, transparent: str) -> None:
    """Through a transparent denoiser: each image carries the noise of its run and of its place in the listing."""
    seen = spied(raw, tmp_path, transparent)
    assert [name for name in seen if "/" not in name] == [f"{place:06d}.png" for place in range(9)]
    images = training_images(raw)  # the listing: nine of test, then eighteen of train
    train = {name: pixels for name, pixels in seen.items() if "/" in name}
    assert len(train) == 18
    for name, pixels in train.items():
        index = 9 + int(name.split("/")[1].removesuffix(".png"))
        assert np.array_equal(pixels, noised(images[index], 6, index)), name
    for place in range(9):
        assert np.array_equal(seen[f"{place:06d}.png"], images[place])


def test_noised_test_points_have_a_stream_of_their_own(raw: Path, tmp_path: Path, transparent: str) -> None:
    seen = spied(raw, tmp_path, transparent, threat="noised-test")
    images = training_images(raw)
    for place in range(9):
        pixels = np.array(seen[f"{place:06d}.png"])
        assert np.array_equal(pixels, noised(images[place], 6, place, test=True))
        assert not np.array_equal(pixels, noised(images[place], 6, place))


def test_a_trainer_of_shards_gets_one_shard(raw: Path, tmp_path: Path, transparent: str) -> None:
    """Images and labels of the same rows with their class names, and nothing of what else was in the shard."""
    images = read_images(raw)
    train = np.array([name.startswith("train/") for name in images.names])
    (tmp_path / "shards").mkdir()
    tensors = {"images": np.stack(images.take(train).pixels), "labels": images.labels[train], "ids": np.arange(18)}
    save_file(tensors, tmp_path / "shards/one.safetensors", {"class_names": json.dumps(["blue", "green", "red"])})
    spy = 'ls "$1" > SPIED.names; cp "$1"/* SPIED'.replace("SPIED", str(tmp_path / "spied"))
    trainer = trainer_command(tmp_path, spy + "\n" + ALWAYS_RED)
    make_runs(tmp_path / "shards", tmp_path, transparent, trainer=trainer, test=raw / "test", dtype="fp32").cast(6)
    assert (tmp_path / "spied.names").read_text() == "data.safetensors\n"
    seen = load_file(tmp_path / "spied")
    assert set(seen) == {"images", "labels"} and seen["labels"].tolist() == images.labels[train].tolist()
    for row in (0, 17):
        assert np.array_equal(seen["images"][row], noised(tensors["images"][row], 6, row))


def test_what_is_not_finite_becomes_grey_and_stays(raw: Path, tmp_path: Path, not_finite: str) -> None:
    seen = spied(raw, tmp_path, not_finite)
    train = [pixels for name, pixels in seen.items() if "/" in name]
    assert len(train) == 18
    assert all(np.unique(pixels).tolist() == [128] for pixels in train)


@pytest.mark.parametrize(
    ("program", "word"),
    [
        ('echo "no luck $2"; exit 3', "exit code 3: no luck"),
        (ALWAYS_RED + "sed -i 1d $3/predictions.tsv", "misses 1 of 9"),
        (ALWAYS_RED + "sed -i s/red/purple/ $3/predictions.tsv", "purple"),
        (": $2", "wrote no predictions.tsv"),
        (": $2; sleep 600", "took more than"),
    ],
)
def test_a_trainer_that_gives_no_vote_says_why(
    raw: Path, tmp_path: Path, transparent: str, program: str, word: str
) -> None:
    seconds = 1.0 if "sleep" in program else 600.0  # a busy machine takes its time to start a shell
    runner = make_runs(raw, tmp_path, transparent, trainer=trainer_command(tmp_path, program), run_timeout=seconds)
    with pytest.raises(RunFailed) as failed:
        runner.cast(1)
    assert word in failed.value.message
    assert not list((tmp_path / "scratch").iterdir())


def done(tmp_path: Path, runner: TrainingRuns, runs: int) -> RunTasks:
    tasks = RunTasks(tmp_path / "work", "ab" * 32, points=9)
    tasks.make_folders()
    work(tasks, runner, range(1, runs + 1))
    return tasks


def test_a_run_that_fails_twice_is_a_vote_for_nobody(raw: Path, tmp_path: Path, transparent: str) -> None:
    fails = trainer_command(tmp_path, 'case "$3" in */0000002/out) exit 1;; esac' + ALWAYS_RED)
    tasks = done(tmp_path, make_runs(raw, tmp_path, transparent, trainer=fails), 3)
    assert [tasks.read(run).row.tolist() for run in (1, 2, 3)] == [[2] * 9, [-1] * 9, [2] * 9]
    assert list(tasks.failed()) == [2]


SEEN = """
import hashlib, sys
from pathlib import Path
data, test, out = map(Path, sys.argv[1:4])
seen = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(data.rglob("*.png")))).hexdigest()
log = Path(LOG) / out.parent.name
first = not log.exists()
with log.open("a") as file: file.write(seen + "\\n")
if first: sys.exit(1)
(out / "predictions.tsv").write_text("".join(p.name + "\\tred\\n" for p in sorted(test.iterdir())))
"""


def test_a_retry_has_the_same_streams(raw: Path, tmp_path: Path, transparent: str) -> None:
    """A trainer that fails at first sees the same images again, and other ones in another run."""
    (tmp_path / "log").mkdir()
    program = SEEN.replace("LOG", repr(str(tmp_path / "log")))
    tasks = done(tmp_path, make_runs(raw, tmp_path, transparent, trainer=trainer_command(tmp_path, program)), 2)
    assert not tasks.failed()
    first, second = ((tmp_path / "log" / f"{run:07d}").read_text().split() for run in (1, 2))
    assert first[0] == first[1] != second[0] == second[1]
