"""Certificates at test time: one model votes on test images that each run noises afresh."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
import torch
from msgspec import structs
from PIL import Image
from safetensors.numpy import save_file
from safetensors.torch import save
from torch import nn

from dpclean.certificate.bounds import find_bound
from dpclean.certificate.bounds.base import ClaimSettings
from dpclean.certificate.files import read
from dpclean.certificate.mixtures import Mixture
from dpclean.certificate.parameters import EvasionParameters, FormError, check_consistent
from dpclean.certificate.verify import verify
from dpclean.certificate.votes import read_votes
from dpclean.certify import smooth as smoothing
from dpclean.certify.dry_run import dry_run
from dpclean.certify.external_votes import certify_votes
from dpclean.certify.job import CertifyJob, certify
from dpclean.certify.options import CertifyOptions
from dpclean.certify.parameters import make_test_time_parameters
from dpclean.certify.predict import predict
from dpclean.certify.run_settings import make_test_time_settings
from dpclean.certify.save import write_outputs
from dpclean.certify.smooth import smooth, smooth_as_certified
from dpclean.certify.test_time_inputs import PointData, read_certified_images
from dpclean.certify.test_time_runs import TestTimeRuns, together
from dpclean.cli import run as command
from dpclean.data.ancestry import Ancestry
from dpclean.errors import ConflictError, DifferenceError, InputError, UsageError
from dpclean.jobs.record import Record
from dpclean.noise import add_noise
from dpclean.progress import Progress
from dpclean.train.model import Augmentation, Description, TrainedOn, dump
from dpclean.train.recipes import find_recipe
from dpclean.train.trainer import Trainer
from tests.certificate.ballots import parameters
from tests.certify.conftest import CLASSES, colour_image, write_folder
from tests.networks import make_denoiser

KEY = bytes(range(32))
SEED: dict[str, Any] = {"seed": 5, "seed_chosen_after_data": True}
FEW: dict[str, Any] = {"runs": 12, "bound": "union", "alpha": "0.1"}


def write_model(
    folder: Path, *, classes: tuple[str, ...] = CLASSES, size: int = 16, resized: bool = False, wavers: bool = True,
    sigma_augment: float | None = None,
) -> str:  # fmt: skip
    """A model of fresh weights, as `train` leaves one; resized: it brings images to its size; else than one that
    wavers it sees one class in everything; sigma_augment: the noise that it says it was trained with.
    """
    recipe = replace(find_recipe("tiny"), size=size if resized else None, mirror=False)
    trainer = Trainer(recipe, len(classes), size=size, device=torch.device("cpu"))
    pixels = np.stack([colour_image(label, 0, size) for label in range(3)])
    mean = trainer.features(torch.from_numpy(pixels)).mean(0)
    with torch.no_grad():
        weight = trainer.network.head.weight
        weight -= torch.outer(weight @ mean, mean) / (mean @ mean)  # no class is ahead, so that noise decides
        if not wavers:
            weight[1] += 10 * mean
    weights = save(trainer.state_dict())
    data = TrainedOn("../raw", 2, dict.fromkeys(classes, 1), "0" * 64, None, None, [])
    digest = hashlib.sha256(weights).hexdigest()
    told = Description(
        1, "dpclean 0", list(classes), size, recipe, recipe.digest(), 0, {}, data, None, True, [], digest, {},
        sigma_augment and Augmentation(sigma_augment, "natural", {}, "one-step", "fp32", None),
    )  # fmt: skip
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "model.json").write_bytes(dump(told))
    (folder / "dpclean.ancestry").write_bytes(Ancestry.of(()).dump())
    return str(folder)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_model(tmp_path_factory.mktemp("evasion") / "model")


@pytest.fixture
def test(tmp_path: Path) -> Path:
    """Nine test images, one of them so unlike the others that no noise makes the model waver on it."""
    folder = write_folder(tmp_path / "test", 3, first=100)
    Image.fromarray(np.full((16, 16, 3), 255, np.uint8)).save(folder / "red" / "102.png")
    return folder


def run(model: str, test: Path, out: Path, denoiser: str, job: Any = certify, **options: Any) -> Any:
    """A job that can be repeated: its key comes from a seed. job: or a look ahead at it."""
    asked = {"sigma": "0.1", "denoiser": denoiser, "workers": 1, "device": "cpu", **SEED, **FEW, **options}
    return job(out=out, threat="evasion", model=model, test=test, **asked)


def make_runs(model: str, test: Path, denoiser: str, **options: Any) -> TestTimeRuns:
    """What does the runs of a job, in this process."""
    asked = CertifyOptions(
        threat="evasion",
        model=model,
        test=test,
        **{"sigma": "0.1", "denoiser": denoiser, "device": "cpu", "dtype": "fp32", **options},
    )
    certified = read_certified_images(asked)
    parameters = make_test_time_parameters(certified, asked)
    settings = make_test_time_settings(certified, asked, parameters)
    return TestTimeRuns(settings, KEY, PointData.of(certified.points), parameters.runs)


def votes_of(runs: TestTimeRuns, numbers: list[int]) -> list[list[int]]:
    return [row.tolist() for row, _ in runs.results(numbers)]


def test_a_whole_job(model: str, test: Path, tmp_path: Path, transparent: str) -> None:
    result = run(model, test, tmp_path / "out", transparent)
    assert (result.points, result.runs, result.threat, result.labelled) == (9, 12, "evasion", 9)
    assert result.certified
    assert verify(tmp_path / "out").certified == result.certified
    page = (tmp_path / "out" / "report.html").read_text()
    assert "it says nothing about poisoned training data" in page
    assert "trained 12 times" not in page and "If you train one model" not in page
    terms = read(tmp_path / "out" / "certificate.json")["terms"]
    assert terms["origin"] == "dpclean at test time" and terms["classes"] == list(CLASSES)
    assert terms["model"]["digest"] == json.loads((Path(model) / "model.json").read_text())["weights_sha256"]
    assert terms["values"] == 16 * 16 * 3 and terms["order"] == ["model and test images fixed", "key drawn"]
    again = run(model, test, tmp_path / "out", transparent)
    assert again.already_complete
    with pytest.raises(ConflictError, match="was made with"):
        run(model, test, tmp_path / "out", transparent, sigma="0.2", job=dry_run)
    told = run(model, test, tmp_path / "out", transparent, job=dry_run)
    assert told.warnings == ["OUT is complete already, so nothing would be done"]


@pytest.mark.parametrize("method", ["one-step", "sde:2"])
def test_a_run_is_the_same_whoever_does_it_and_with_which_others(
    model: str, test: Path, transparent: str, method: str
) -> None:
    """Alone, together, in another order; and its denoised images, bit for bit, where these fill several batches."""
    runs = make_runs(model, test, transparent, local_smoothing="2:0.05", batch_size=4, method=method)
    assert runs.at_once > 1
    together = votes_of(runs, [1, 2, 3, 4, 5])
    assert len({tuple(row) for row in together}) > 1  # fresh noise each run
    assert votes_of(runs, [4]) == together[3:4] and votes_of(runs, [5, 2]) == [together[4], together[1]]

    def denoised(numbers: list[int]) -> dict[tuple[int, int], bytes]:
        images = (
            (run, int(index), image)
            for run in numbers
            for index, image in zip(runs.data.indices, runs.data.pixels, strict=True)
        )
        return {(r.run, r.index): r.pixels.tobytes() for r in runs.denoiser.denoise_runs(images, key=KEY, test=True)}

    assert denoised([2]).items() <= denoised([1, 2, 3]).items()


@pytest.mark.parametrize(
    ("points", "total", "at_once"),
    [(1, 1000, 128), (10, 1000, 25), (500, 1000, 4), (10**4, 10**4, 1), (9, 12, 14), (1, 10**5, 768)],
)
def test_runs_fill_batches_and_are_shared(points: int, total: int, at_once: int) -> None:
    """And are not more than there may be open files, as each claim is one."""
    assert together(points, total, batch=128) == at_once


def test_every_batch_has_one_shape(model: str, test: Path, transparent: str) -> None:
    runs = make_runs(model, test, transparent, batch_size=8)
    shapes = set()
    network = runs.denoiser._network
    hook = network.register_forward_pre_hook(lambda _, given: shapes.add(tuple(given[0].shape)))
    votes_of(runs, [1])
    votes_of(runs, [2, 3])
    hook.remove()
    assert len(shapes) == 1


def test_a_run_takes_images_as_the_job_was_begun_to(model: str, test: Path, transparent: str) -> None:
    """By a description beside the weights, whose digest says nothing of it."""
    runs = make_runs(model, test, transparent)
    other = replace(runs.settings, recipe={**runs.settings.recipe, "mean": [0.4, 0.5, 0.6]})
    with pytest.raises(ConflictError, match="is not the one that the job was begun with"):
        TestTimeRuns(other, KEY, runs.data, 12)


def test_the_noise_is_that_of_the_point_in_its_run(model: str, test: Path, transparent: str) -> None:
    """Seen through a denoiser that takes nothing away: the address is (key, run, index, test)."""
    runs = make_runs(model, test, transparent)
    images = [
        (run, int(i), image) for run in (1, 2) for i, image in zip(runs.data.indices, runs.data.pixels, strict=True)
    ]
    seen = {(r.run, r.index): r.pixels for r in runs.denoiser.denoise_runs(images, key=KEY, test=True)}
    for run, index, image in images:
        noised = add_noise(image[None], 0.1, key=KEY, run=run, indices=[index], test=True)[0].clip(0, 255)
        assert np.array_equal(seen[run, index], noised)


def test_local_smoothing_draws_noise_of_its_own(model: str, test: Path, transparent: str) -> None:
    """Standard normal, another one for each run, draw and image, and not that of the images."""
    runs = make_runs(model, test, transparent, local_smoothing="2:0.05")
    images = [
        (run, int(i), image) for run in (1, 2) for i, image in zip(runs.data.indices, runs.data.pixels, strict=True)
    ]
    some = list(runs.denoiser.denoise_runs(images, key=KEY, test=True))
    drawn = torch.stack([runs._normal(some, draw) for draw in (0, 1)]).flatten(0, 1).flatten(1)
    correlated = torch.corrcoef(drawn).fill_diagonal_(0)
    assert drawn.shape == (36, 768) and abs(drawn.std() - 1) < 0.02 and correlated.abs().max() < 0.25
    first = torch.from_numpy(add_noise(np.zeros((1, 16, 16, 3), np.uint8), 1, key=KEY, run=1, indices=[0], test=True))
    assert abs(torch.corrcoef(torch.stack([drawn[0], first.float().flatten()]))[0, 1]) < 0.25


class Brightness(nn.Module):
    """Class 0 where the sum of all values is above that of grey 128: a linear rule whose distance is known."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        above = (inputs * 0.25 + 0.5).flatten(1).double().sum(1) - inputs[0].numel() * 128 / 255
        return torch.stack([above, -above, torch.full_like(above, -1e9)], 1).float()


def test_no_radius_exceeds_the_distance_of_a_linear_rule(tmp_path: Path, model: str, transparent: str) -> None:
    """Images at known distances d from the boundary: p_A is Phi(d / sigma), and every radius stays below d."""
    folder = tmp_path / "grey" / "red"
    folder.mkdir(parents=True)
    levels = (150, 300, 500, 768, 1200)  # of 768 values, how much above 128 in all
    for number, level in enumerate(levels):
        image = np.full(768, 128 + level // 768, np.uint8)
        image[: level % 768] += 1
        Image.fromarray(image.reshape(16, 16, 3)).save(folder / f"{number}.png")
    runs = make_runs(model, folder.parent, transparent, runs=400)
    runs.trainer.network = Brightness()
    votes = np.array(votes_of(runs, list(range(1, 401))))
    for name in ("cohen", "union", "multiclass", "anytime"):
        bound = find_bound(name)
        settings = ClaimSettings(runs=400, level=Fraction(1, 1000), sigma=Fraction(1, 10), tau=Fraction(0))
        for column, level in zip(votes.T, levels, strict=True):
            distance = level / 255 / math.sqrt(768)
            agreeing, expected = int((column == 0).sum()), 400 * NormalDist().cdf(distance / 0.1)
            assert abs(agreeing - expected) < 4 * math.sqrt(400 * 0.25)
            claim = bound.claim(settings, agreeing, 400 - agreeing)
            radius = 0.0 if claim is None else float(claim.radius)
            assert radius <= distance
            assert radius > 0.5 * distance or level < 768  # and near ones are not given away


def test_a_point_depends_on_no_other_point(model: str, test: Path, tmp_path: Path, transparent: str) -> None:
    """Whatever the others show."""
    votes = votes_of(make_runs(model, test, transparent), [1, 2, 3])
    changed = sorted(test.rglob("*.png"))
    for path in changed[1:]:
        Image.fromarray(np.full((16, 16, 3), 255, np.uint8)).save(path)
    others = votes_of(make_runs(model, test, transparent), [1, 2, 3])
    assert [row[0] for row in others] == [row[0] for row in votes] and others != votes


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"sigma": "0"}, "covers changes of the test image by the noise on it, and sigma is 0"),
        ({"sigma": None}, "--sigma is missing"),
        ({"local_smoothing": "5"}, "M:S"),
        ({"local_smoothing": "5:"}, "M:S"),
        ({"local_smoothing": "0:0.1"}, "M:S"),
        ({"local_smoothing": "5:0"}, "above 0"),
        ({"subsample": "0.5"}, "--subsample has no meaning"),
        ({"partitions": 2}, "--partitions has no meaning"),
        ({"recipe": "tiny"}, "--recipe has no meaning"),
        ({"keep_models": True}, "--keep-models has no meaning"),
        ({"extractor": "m"}, "--extractor has no meaning"),
        ({"method": "sde:2", "seed": 1, "seed_chosen_after_data": False}, "whoever knows the seed knows the noise"),
        ({"runs": 3, "alpha": "0.001"}, "3 runs cannot certify anything"),
        ({"threat": "clean-test", "sigma": "0.1"}, "--model has a meaning with --threat evasion only"),
        ({"weights": Path("w.safetensors")}, "brings its own weights"),
    ],
)
def test_bad_options(
    model: str, test: Path, tmp_path: Path, transparent: str, options: dict[str, Any], said: str
) -> None:
    asked: dict[str, Any] = {"threat": "evasion", "sigma": "0.1", "denoiser": transparent, "device": "cpu", **options}
    with pytest.raises(UsageError, match=said):
        certify(out=tmp_path / "out", model=model, test=test, workers=1, **asked)
    assert not (tmp_path / "out").exists()


def test_a_sigma_beyond_the_schedule(model: str, test: Path, tmp_path: Path) -> None:
    short = make_denoiser(tmp_path / "short")
    scheduler = short / "scheduler" / "scheduler_config.json"
    scheduler.write_text(json.dumps({**json.loads(scheduler.read_text()), "num_train_timesteps": 10}))
    with pytest.raises(UsageError, match="outside the denoiser's schedule"):
        run(model, test, tmp_path / "out", str(short), sigma="0.5")


def test_images_that_do_not_fit_the_model(tmp_path: Path, test: Path, model: str, transparent: str) -> None:
    larger = write_model(tmp_path / "larger", size=32)
    with pytest.raises(InputError, match="takes images of 32 x 32"):
        make_runs(larger, test, transparent)
    assert make_runs(write_model(tmp_path / "any", size=32, resized=True), test, transparent).trainer.size == 32
    strangers = write_model(tmp_path / "strangers", classes=("blue", "green"))
    with pytest.raises(InputError, match="does not know the class 'red'"):
        make_runs(strangers, test, transparent)
    Image.fromarray(np.zeros((16, 17, 3), np.uint8)).save(test / "red" / "wide.png")
    with pytest.raises(InputError, match=r"not all of one size: .* others than most are 'red/wide.png'"):
        make_runs(model, test, transparent)
    (test / "red" / "wide.png").unlink()
    assert make_runs(model, test, transparent)


def test_a_torchvision_model(tmp_path: Path, test: Path, transparent: str) -> None:
    """Its classes are those of the images, in the order of their names; another number of them is refused."""
    from torchvision.models import get_model

    for outputs in (3, 4):
        torch.manual_seed(0)
        weights = get_model("squeezenet1_1", num_classes=outputs).state_dict()
        (tmp_path / f"{outputs}.safetensors").write_bytes(save(weights))
    named = "torchvision:squeezenet1_1@32"
    runs = make_runs(named, test, transparent, weights=tmp_path / "3.safetensors")
    assert runs.trainer.classes == 3 and len(votes_of(runs, [1])[0]) == 9
    with pytest.raises(InputError, match="tells 4 classes apart"):
        make_runs(named, test, transparent, weights=tmp_path / "4.safetensors")
    with pytest.raises(UsageError, match="needs --weights"):
        make_runs(named, test, transparent)
    weights = tmp_path / "3.safetensors"
    asked = CertifyOptions(
        threat="evasion", model=named, weights=weights, test=test, sigma="0.1", denoiser=transparent, device="cpu",
        workers=1, runs=20, alpha="0.1",
    )  # fmt: skip
    terms = make_test_time_parameters(read_certified_images(asked), asked)
    found = smooth_as_certified(terms, test, weights=weights, device="cpu", workers=1)
    assert {image.predicted for image in found} & {*CLASSES} and {image.predicted for image in found} <= {
        *CLASSES,
        None,
    }
    with pytest.raises(InputError, match="the model 'torchvision:squeezenet1_1@32' is not the one of the certificate"):
        smooth_as_certified(structs.replace(terms, classes=list("abcd")), test, weights=weights, device="cpu")


def test_forged_terms(model: str, test: Path, tmp_path: Path, transparent: str) -> None:
    """What does not follow is found: another threat, model, local smoothing, size of the noise or number of values."""
    run(model, test, tmp_path / "out", transparent, local_smoothing="2:0.05")
    votes = read_votes(tmp_path / "out" / "votes.safetensors")
    assert isinstance(votes.parameters, EvasionParameters)
    changes: list[dict[str, Any]] = [
        {"threat": "clean-test"},
        {"values": 1},
        {"sigma": "0.2"},
        {"model": structs.replace(votes.parameters.model, digest="0" * 64)},
        {"local_smoothing": None},
        {"local_smoothing": structs.replace(votes.parameters.local_smoothing, sigma="0")},
        {"order": ["digest of the data fixed", "key drawn"]},
    ]
    for change in changes:
        forged = tmp_path / "forged"
        forged.mkdir(exist_ok=True)
        write_outputs(forged, replace(votes, parameters=structs.replace(votes.parameters, **change)), [])
        with pytest.raises(DifferenceError):
            verify(forged)
    for name in ("certificate.json", "certified.tsv"):
        text = (tmp_path / "out" / name).read_text()
        (forged / name).write_text(text)
    (forged / "votes.safetensors").write_bytes((tmp_path / "out" / "votes.safetensors").read_bytes())
    verify(forged)
    text = (forged / "certificate.json").read_text()
    for old, new in (
        (votes.parameters.model.digest, "0" * 64),
        ('"draws": 2', '"draws": 3'),
        ("evasion", "clean-test"),
    ):
        assert old in text
        (forged / "certificate.json").write_text(text.replace(old, new))
        with pytest.raises(DifferenceError):
            verify(forged)


def test_terms_of_training_are_none_at_test_time() -> None:
    """Nor do they become some by another word."""
    with pytest.raises(FormError, match="the runs train"):
        check_consistent(structs.replace(parameters(20, 3), threat="evasion"))


def test_runs_are_added_and_others_refused(model: str, test: Path, tmp_path: Path, transparent: str) -> None:
    """anytime: the same votes whether runs come at once or are added; another model goes on with nothing."""
    options: dict[str, Any] = {"bound": "anytime", "alpha": "0.1"}
    run(model, test, tmp_path / "out", transparent, runs=10, **options)
    more = run(model, test, tmp_path / "out", transparent, runs=14, **options)
    assert more.runs_done_now == 4
    run(model, test, tmp_path / "once", transparent, runs=14, **options)
    files = [(tmp_path / name / "votes.safetensors").read_bytes() for name in ("out", "once")]
    assert files[0] == files[1]
    torch.manual_seed(1)
    other = write_model(tmp_path / "other", size=16, classes=(*CLASSES, "white"))
    with pytest.raises(ConflictError):
        run(other, test, tmp_path / "out", transparent, runs=14, **options)


def test_smoothed_predictions(
    model: str, test: Path, tmp_path: Path, transparent: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Under keys of chance: what holds whatever they are, and of a model that nothing could make waver."""
    with pytest.raises(UsageError, match="a smoothed prediction is of noised images, and --sigma is missing"):
        smooth(model, test)
    sure = write_model(tmp_path / "sure", wavers=False)
    found = smooth(sure, test, sigma="0.1", runs=40, denoiser=transparent, device="cpu", workers=1)
    assert {(image.predicted, image.votes) for image in found} == {("green", 40)}
    (test / "red" / "broken.png").write_bytes(b"")
    asked = ["predict", sure, str(test), "--smooth", "--sigma=0.1", "--runs=40", f"--denoiser={transparent}"]
    assert command([*asked, "--device=cpu", "--workers=1", "--quiet"]) == 0
    told = capsys.readouterr()
    assert told.err == "" and told.out.count("green\t0.") == 9
    steps = list[Progress]()
    asked_of: dict[str, Any] = {"sigma": "0.1", "runs": 60, "alpha": "0.1", "denoiser": transparent, "device": "cpu"}
    found = smooth(model, test, progress=steps.append, workers=1, **asked_of)
    assert len(steps) > 1 and steps[-1].finished == 60 and {step.total for step in steps} == {60}
    assert [image.name for image in found] == [f"{name}/{n}.png" for name in CLASSES for n in (100, 101, 102)]
    for image in found:
        assert (image.predicted is None) == (float(image.certified_radius) == 0) and image.votes <= image.runs == 60


def test_a_certificate_gives_its_settings_to_new_images(
    test: Path, tmp_path: Path, transparent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the options do that it was made with; its model and denoiser must be those that it names."""
    sure = write_model(tmp_path / "sure", wavers=False)
    options = {"runs": 40, "alpha": "0.05", "bound": "cohen", "local_smoothing": "2:0.05", "method": "ddim:2"}
    run(sure, test, tmp_path / "out", transparent, **options)
    taken = []
    monkeypatch.setattr(smoothing, "TestTimeRuns", lambda *given: taken.append(given[0]) or TestTimeRuns(*given))
    for flag in (False, True):
        found = predict(tmp_path / "out", test, smooth=flag, device="cpu", workers=1)
        assert {(image.predicted, image.votes, image.runs) for image in found} == {("green", 36, 36)}  # 4 select
        assert len(found) == 9
    begun, described = read(tmp_path / "out" / "certificate.json"), Path(sure) / "model.json"
    told = json.loads(described.read_text())
    for change in ({"classes": told["classes"][::-1]}, {"recipe": {**told["recipe"], "mean": [0.4, 0.5, 0.6]}}):
        described.write_text(json.dumps({**told, **change}))
        with pytest.raises(InputError, match="is not the one of the certificate"):
            predict(tmp_path / "out", test, device="cpu", workers=1)
    assert {(s.sigma, s.method, s.draws, s.local_sigma) for s in taken} == {("0.1", "ddim:2", 2, "0.05")}
    assert {image.certified_radius for image in found} == {p["certified_radius"] for p in begun["points"]}
    shutil.rmtree(sure)
    torch.manual_seed(3)
    write_model(Path(sure), classes=(*CLASSES, "white"))
    with pytest.raises(InputError, match="is not the one of the certificate"):
        predict(tmp_path / "out", test, device="cpu", workers=1)


def test_a_certificate_without_a_model_to_ask(tmp_path: Path, test: Path) -> None:
    save_file({"votes": np.zeros((50, 4), np.int32)}, tmp_path / "votes.safetensors")
    certify_votes(tmp_path / "votes.safetensors", tmp_path / "out", classes=2, sigma="0.5", threat="evasion")
    with pytest.raises(InputError, match="names no model"):
        predict(tmp_path / "out", test, smooth=True)


@pytest.mark.parametrize(("sigma_augment", "said"), [(None, False), (0.1, False), (0.25, True)])
def test_a_model_that_has_seen_other_noise(
    sigma_augment: float | None, said: bool, test: Path, tmp_path: Path, transparent: str
) -> None:
    """Is said once, by whoever asks it; and how many images have no prediction."""
    (test / "red" / "broken.png").write_bytes(b"")
    named, remarks = write_model(tmp_path / "model", sigma_augment=sigma_augment), list[str]()
    options: dict[str, Any] = {"sigma": "0.10", "runs": 12, "alpha": "0.1", "denoiser": transparent, "device": "cpu"}
    options["workers"] = 1
    smooth(named, test, on_remark=remarks.append, **options)
    certify(out=tmp_path / "out", threat="evasion", model=named, test=test, say=remarks.append, **options)
    assert sum("noised at sigma 0.25" in remark for remark in remarks) == 2 * said
    assert sum("left out: 1 (1 empty: 'red/broken.png')" in remark for remark in remarks) == 2


def test_votes_from_elsewhere(tmp_path: Path) -> None:
    votes = {"votes": np.zeros((50, 4), np.int32), "labels": np.array([0, 0, 0, 1])}
    save_file(votes, tmp_path / "votes.safetensors")
    result = certify_votes(tmp_path / "votes.safetensors", tmp_path / "out", classes=2, sigma="0.5", threat="evasion")
    assert result.certified == 4 and result.headline == verify(tmp_path / "out").headline
    assert result.headline is not None and result.headline.startswith("75.0 % of the test images still get the right")
    assert "if each is changed by less than 0.5 (" in result.headline
    certificate = read(tmp_path / "out" / "certificate.json")
    assert any("one and the same model voted" in sentence for sentence in certificate["assumptions"])
    assert any("Poisoned training data" in sentence for sentence in certificate["not_covered"])
    with pytest.raises(UsageError, match="take no share"):
        certify_votes(
            tmp_path / "votes.safetensors",
            tmp_path / "other",
            classes=2,
            sigma="0.5",
            threat="evasion",
            subsample_word=9,
        )


def test_two_workers_share_the_runs(model: str, test: Path, tmp_path: Path, transparent: str) -> None:
    """The votes are those of one process."""
    for workers in (1, 2):
        run(model, test, tmp_path / str(workers), transparent, batch_size=1, workers=workers)
    one, two = ((tmp_path / name / "votes.safetensors").read_bytes() for name in ("1", "2"))
    assert one == two
    with pytest.raises(ConflictError, match="was made with batch-pixels 1024; this command asks for batch-pixels 2048"):
        run(model, test, tmp_path / "1", transparent, batch_size=2)


def test_what_is_asked_of_the_engine_by_name_is_not_passed_over(
    model: str, test: Path, tmp_path: Path, transparent: str
) -> None:
    """Whoever goes on with a job takes the one that it was begun with."""
    asked = {"model": model, "test": test, "sigma": "0.1", "denoiser": transparent, "workers": 1, **FEW}
    job = CertifyJob(tmp_path, tmp_path / "out", CertifyOptions(threat="evasion", device="cpu", **asked), print)
    record = Record("certify", job.parameters(), {"device": "cpu", "dtype": "fp32", "batch_pixels": 1024}, {})
    assert job.goes_on(record)
    options, others = job.options, [{"device": "cuda"}, {"dtype": "bf16"}, {"batch_size": 2}]
    for other in others:
        job.options = replace(options, **other)
        with pytest.raises(ConflictError, match="was begun with"):
            job.goes_on(record)


def test_a_dry_run(model: str, test: Path, tmp_path: Path, transparent: str) -> None:
    asked: dict[str, Any] = {"sigma": "0.1", "denoiser": transparent, "device": "cpu", "workers": 1}
    told = dry_run(out=tmp_path / "out", threat="evasion", model=model, test=test, **asked)
    assert (told.images, told.points, told.runs, told.ceiling[:6]) == (0, 9, 1000, "0.2448")
    assert not (tmp_path / "out").exists()


def test_what_is_asked_of_a_certificate(tmp_path: Path) -> None:
    """How far an image may be moved, and nothing about training images."""
    save_file({"votes": np.zeros((50, 4), np.int32)}, tmp_path / "votes.safetensors")
    certify_votes(tmp_path / "votes.safetensors", tmp_path / "out", classes=2, sigma="0.5", threat="evasion")
    found = verify(tmp_path / "out", Mixture(radius="0.3")).withstood
    assert found is not None and found.held == 4
    assert found.statement[0].startswith("If an attacker moved this test image by less than 0.3 (Euclidean")
    with pytest.raises(UsageError, match="trained nothing"):
        verify(tmp_path / "out", Mixture(inserted=1))
