"""Attacks at test time from end to end: what is counted, what stands beside it, and what is refused."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import structs
from PIL import Image
from safetensors.numpy import load, save

from dpclean.audit.evasion.claims import Claims, read_claims
from dpclean.audit.evasion.job import EvasionJob, audit
from dpclean.audit.evasion.options import EvasionOptions
from dpclean.audit.evasion.protected import Pixels
from dpclean.audit.evasion.results import told_of
from dpclean.audit.evasion.unfinished import Unfinished
from dpclean.audit.results import AuditResult
from dpclean.audit.victims.victim import Check, never
from dpclean.certificate.votes import Votes, read_votes
from dpclean.certify.options import CertifyOptions
from dpclean.certify.parameters import make_test_time_parameters
from dpclean.certify.run_settings import THREADS, make_test_time_settings
from dpclean.certify.runs_on_images import engine
from dpclean.certify.test_time_inputs import PointData, read_certified_images
from dpclean.certify.test_time_runs import TestTimeRuns
from dpclean.cli import run
from dpclean.cli.audit import _tell_at_test_time
from dpclean.errors import ConflictError, InputError, InternalError, Interrupted, UsageError
from dpclean.jobs.durable import sealed, unsealed
from dpclean.jobs.tasks import Tasks
from dpclean.noise.keys import commitment
from dpclean.progress import Progress
from dpclean.train.predict import predict
from tests.certificate.ballots import hand_over, recorded
from tests.damage import refused_until_deleted

Keywords = dict[str, Any]
EPS, TARGETS = 16, 9


@pytest.fixture(scope="module")
def keywords(model: Path, test_images: Path, denoiser: Path) -> Keywords:
    given = {"model": model, "test": test_images, "denoiser": denoiser, "sigma": "0.1", "norm": "linf", "eps": EPS}
    cost = {"steps": 6, "draws": 2, "votes": 8, "targets": TARGETS}
    return {**given, **cost, "threads": 1, "workers": 1, "device": "cpu"}


@pytest.fixture(scope="module")
def certificate(keywords: Keywords, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `certify --threat evasion` publishes of 40 runs, without its pages."""
    runs, key = 40, bytes(range(32))
    asked = CertifyOptions(
        threat="evasion", model=str(keywords["model"]), test=keywords["test"], sigma=keywords["sigma"], runs=runs,
        denoiser=str(keywords["denoiser"]), device="cpu", workers=1,
    )  # fmt: skip
    certified = read_certified_images(asked)
    terms = structs.replace(make_test_time_parameters(certified, asked), key_commitment=commitment(key))
    doing = TestTimeRuns(
        make_test_time_settings(certified, asked, terms), key, PointData.of(certified.points), terms.runs
    )
    terms = structs.replace(terms, engine=json.loads(json.dumps(engine(doing.denoiser, THREADS))))
    ballots = np.stack([ballot for ballot, _ in doing.results(range(1, runs + 1))]).astype(np.int32)
    votes = recorded(Votes(ballots, certified.points.labels, None, terms))
    return hand_over(tmp_path_factory.mktemp("certified") / "certificate", votes)


@pytest.fixture(scope="module")
def out(keywords: Keywords, certificate: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("attacked") / "audit"
    audit(folder, certificate=[certificate], **keywords)
    return folder


def report(folder: Path) -> Any:
    return json.loads((folder / "audit.json").read_bytes())


def without_times(told: Any) -> Any:
    if isinstance(told, dict):
        return {name: without_times(one) for name, one in told.items() if not name.endswith("seconds")}
    return [without_times(one) for one in told] if isinstance(told, list) else told


def test_every_attacker_is_counted_behind_what_he_knows(out: Path) -> None:
    told = report(out)
    kinds = [(row["knows"], row["defence"]) for row in told["rows"]]
    behind = "sanitized at 0.1"
    assert kinds == [(None, "none"), (None, behind), (behind, behind)]
    alone, stranger, knowing = told["rows"]
    assert alone["attacked"][0] < alone["clean"][0] and alone["attacked_by_vote"] is None
    assert knowing["attacked_by_vote"][0] <= stranger["attacked_by_vote"][0] <= stranger["clean_by_vote"][0]
    assert [row["draws"] for row in told["rows"]] == [1, 1, 2]
    for row in told["rows"]:
        assert row["attacked"][1] <= row["attacked"][0] / TARGETS <= row["attacked"][2] and row["images"] == TARGETS
        assert 0 < row["mean"] <= row["largest"] <= told["reach"]
    assert EPS * math.sqrt(768) / 255 <= told["reach"] == 1.7389  # and not 1.7388, which is nearer
    assert told["headline"].startswith(
        "By changes of up to 16 of 255 grey levels of each pixel value: without a purifier"
    )
    assert f"sanitized at 0.1 it is by vote right on {knowing['clean_by_vote'][0]} of 9" in told["headline"]


def test_the_attacked_images_are_there_and_the_model_says_of_them_what_is_told(
    out: Path, keywords: Keywords, test_images: Path
) -> None:
    told = report(out)
    names = sorted(str(path.relative_to(test_images)) for path in test_images.rglob("*.png"))
    folders = sorted(folder.name for folder in (out / "attacked").iterdir())
    assert folders == ["0-none", "1-sanitized-at-0.1"]
    for name, label in zip(told["names"], told["labels"], strict=True):
        before = np.array(Image.open(test_images / name)).astype(int)
        assert told["classes"][label] == name.split("/")[0]
        for folder in folders:
            change = np.array(Image.open(out / "attacked" / folder / f"{names.index(name):06d}.png")) - before
            assert 0 < np.abs(change).max() <= EPS
    said = predict(keywords["model"], out / "attacked" / "0-none", device="cpu", workers=1)
    assert [row.class_name for row in said.predictions] == [
        told["classes"][one] for one in told["answers"][0]["attacked"]
    ]


def test_a_certificate_stands_beside_the_vote_that_it_is_about(
    out: Path, certificate: Path, keywords: Keywords
) -> None:
    row = report(out)["rows"][-1]
    assert row["covered"] == 0 and row["refuted"] == 0  # the cube of 16 grey levels is beyond what so few runs prove
    page = (out / "report.html").read_text("utf-8")
    assert page.index(report(out)["headline"]) < page.index("<table")
    assert "Refuted is of how many" in page and "What an audit cannot show" in page
    assert page.count("<img") == 6 * 6  # image; changed and difference by two; purified
    job = EvasionJob(out, EvasionOptions(**{**keywords, "model": str(keywords["model"])}))
    names, digest = job.found.attacked.names, job.found.certified.points_digest
    claims = read_claims(certificate, digest, names)
    assert (claims.classes >= 0).any() and claims.other_engine(claims.terms.engine) == ""
    here = {**claims.terms.engine, "versions": {**claims.terms.engine["versions"], "torch": "x"}}
    assert claims.other_engine({**here, "dtype": "x", "threads": 7}) == "another dtype"
    assert claims.other_engine({**here, "threads": 7}) == ""
    assert claims.other_engine({**here, "versions": {"dpclean": "x"}}) == "another version of dpclean"
    for change in ({"classes": claims.terms.classes[::-1]}, {"recipe": {**claims.terms.recipe, "mirror": False}}):
        assert claims.are_about(claims.terms) and not claims.are_about(structs.replace(claims.terms, **change))
    radius = max(claims.radii)
    place = claims.radii.index(radius)
    square = int(radius**2 * 255**2)
    assert claims.reach([square] * TARGETS)[place] and not claims.reach([square + 1] * TARGETS)[place]


def test_names_that_an_issuer_made_up_are_of_other_images(certificate: Path, tmp_path: Path) -> None:
    """Beside the digest of those that are attacked: another name, and one twice."""
    votes = read_votes(certificate / "votes.safetensors")
    names = votes.parameters.point_names
    for number, forged in enumerate((["x.png", *names[1:]], [names[1], *names[1:]])):
        terms = structs.replace(votes.parameters, point_names=forged)
        folder = hand_over(tmp_path / str(number), recorded(replace(votes, parameters=terms)))
        with pytest.raises(InputError, match="is about other test images"):
            read_claims(folder, str(terms.points_digest), names[number:])


def claims_of(certificate: Path, classes: list[int], **terms: Any) -> Claims:
    found = read_claims(
        certificate, json.loads((certificate / "certificate.json").read_bytes())["terms"]["points_digest"], []
    )
    return replace(
        found,
        classes=np.array(classes),
        radii=[Fraction(1, 4)] * len(classes),
        terms=structs.replace(found.terms, **terms),
    )


def test_votes_that_a_certificate_rules_out_stop_the_audit(certificate: Path) -> None:
    claims = claims_of(certificate, [0, 0, 0, -1], alpha="0.001")
    votes = np.array([[0, 1, 1, 1]] * 60 + [[0, 1, 0, 1]] * 40, np.int32)  # 60 of 100 may be chance
    squares = [64, 64, 64, 64]
    assert claims.refuted(votes, squares, 2).tolist() == [False, True, False, False]
    assert not claims.refuted(votes, [64, 64**2, 64, 64], 2).any()  # beyond its radius of 63.75
    fewer = np.array([[1, 1, 1, 1]] * 70 + [[0, 0, 0, 0]] * 30, np.int32)  # by chance of 1 in 25,000
    for rows in (2, 20):  # that share one risk
        assert claims.refuted(fewer, [64, 64**2, 64**2, 64], rows).tolist() == [rows == 2, False, False, False]
    claims.check(np.zeros(4, bool), "x", 1)
    one = np.array([True, False, False, False])
    claims.check(one, "x", 1)  # with a chance of 0.4 %
    with pytest.raises(InternalError, match="x: attacks changed the vote of 2 images"):
        claims.check(np.array([True, True, False, False]), "x", 1)
    together = claims_of(certificate, [0] * 4, family="all", alpha="0.001")
    together.check(one, "x", 2)  # of two certificates one may be the one in 1,000
    with pytest.raises(InternalError) as refused:
        together.check(one, "x", 1)
    assert "certificates of this kind may be wrong; if you did not, its votes may be none" in refused.value.remedy


def test_it_goes_on_after_a_signal(out: Path, certificate: Path, keywords: Keywords, tmp_path: Path) -> None:
    def stop(step: Progress) -> None:
        if step.finished == 3:
            os.kill(os.getpid(), signal.SIGINT)

    asked = {**keywords, "certificate": [str(certificate)]}
    with pytest.raises(Interrupted, match="after 3 of 7 parts"):
        audit(tmp_path / "audit", progress=stop, **asked)
    steps: list[Progress] = []
    audit(tmp_path / "audit", progress=steps.append, **asked)
    assert steps[0].finished == 3
    assert without_times(report(tmp_path / "audit")) == without_times(report(out))
    assert audit(tmp_path / "audit", **asked).already_complete
    with pytest.raises(ConflictError, match="was made with eps 16"):
        audit(tmp_path / "audit", **{**asked, "eps": 8})


@pytest.mark.parametrize("task", [1, 3], ids=["answers", "changed images"])
def test_damaged_work_is_named_and_done_again(
    out: Path, certificate: Path, keywords: Keywords, tmp_path: Path, task: int
) -> None:
    def stop(step: Progress) -> None:
        if step.finished == 3:
            os.kill(os.getpid(), signal.SIGINT)

    asked = {**keywords, "certificate": [str(certificate)]}
    with pytest.raises(Interrupted):
        audit(tmp_path / "audit", progress=stop, **asked)
    kept = Tasks(tmp_path / ".audit.dpclean" / "work").path(task)
    refused_until_deleted(kept, lambda: audit(tmp_path / "audit", **asked))
    audit(tmp_path / "audit", **asked)
    assert without_times(report(tmp_path / "audit")) == without_times(report(out))


def test_what_is_wrong_at_once_is_left_as_it_is(keywords: Keywords, test_images: Path, tmp_path: Path) -> None:
    """An image in another class's folder: the model, alone and behind the purifier, gets it wrong unattacked."""
    test = shutil.copytree(test_images, tmp_path / "test")
    first, second = sorted(folder.name for folder in test.iterdir())[:2]
    misplaced = sorted((test / first).iterdir())[0].rename(test / second / "misplaced.png")
    asked = {**keywords, "test": test, "targets": len(list(test.rglob("*.png")))}
    audit(tmp_path / "audit", **asked)
    told = report(tmp_path / "audit")
    place = told["names"].index(f"{second}/{misplaced.name}")
    for row, said in zip(told["rows"], told["answers"], strict=True):
        left = [
            number
            for number, label in enumerate(told["labels"])
            if said["clean"][number] != label != said["clean_by_vote"][number]
        ]
        unchanged = [number for number, square in enumerate(said["squares"]) if square == 0]
        assert place in unchanged and set(unchanged) <= set(left)
        assert row["changed"] == row["images"] - len(unchanged)
        assert row["changed"] * row["mean"] == pytest.approx(
            sum(math.sqrt(square) / 255 for square in said["squares"]), abs=1e-3
        )
        for after, before in (("attacked", "clean"), ("attacked_by_vote", "clean_by_vote")):
            assert [said[after][number] for number in unchanged] == [said[before][number] for number in unchanged]
    names = sorted(str(path.relative_to(test)) for path in test.rglob("*.png"))
    misplaced_file = f"{names.index(told['names'][place]):06d}.png"
    assert not list((tmp_path / "audit" / "attacked").rglob(misplaced_file))


def test_an_attacker_changes_what_anything_that_he_is_tried_on_gets_right(keywords: Keywords, tmp_path: Path) -> None:
    asked = {**keywords, "model": str(keywords["model"]), "denoiser": str(keywords["denoiser"]), "targets": 4}
    job = EvasionJob(tmp_path / "audit", EvasionOptions(**{**asked, "sigma": "0.1,0.2"}))
    kept, label = Tasks(job.staging.work), job.found.attacked.labels
    kept.make_folders()
    right = (  # by draws of each image, of which the first one counts by itself too
        [[True, False, False, False]] * 3,
        [[False, True, False, False], [False] * 4, [False] * 4],
        [[False] * 4, [False, False, True, False], [False, False, True, False]],
    )
    for number, of_draws in enumerate(right, 1):
        answers = np.where(of_draws, label, (label + 1) % 3).astype(np.int32)
        kept.finish(number, sealed(save({"answers": answers})))
    assert job._given == [[0, 1, 2], [1], [2]]  # the model alone, and behind each purifier


def test_all_are_attacked_whatever_the_batches(
    keywords: Keywords, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dpclean.audit.evasion.job.MOST", 4)
    steps: list[Progress] = []
    audit(tmp_path / "audit", progress=steps.append, **keywords)
    assert steps[-1].total == 2 + 2 * 3 + 3  # answers; batches of nine images, by two attackers; answers again
    for row, folder in zip(report(tmp_path / "audit")["rows"][::2], ("0-none", "1-sanitized-at-0.1"), strict=True):
        assert row["changed"] == len(list((tmp_path / "audit" / "attacked" / folder).iterdir())) == TARGETS


def test_a_descent_goes_on_where_it_was_saved(
    keywords: Keywords, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dpclean.audit.evasion.unfinished.SAVE_SECONDS", 0.0)
    asked = {**keywords, "model": str(keywords["model"]), "denoiser": str(keywords["denoiser"])}
    job = EvasionJob(tmp_path, EvasionOptions(**asked))
    knowing, draws = job.protected[1], 0

    def attacked(check: Check, name: str) -> Pixels:
        return job._attacked(knowing, range(3), 4, check, Unfinished(tmp_path / name, job.device))

    def stop_in_the_third_step() -> None:
        nonlocal draws
        draws += 1
        if draws == 5:
            raise Interrupted("stopped", "again")

    with pytest.raises(Interrupted):
        attacked(stop_in_the_third_step, "one")
    one = tmp_path / "one"
    refused_until_deleted(shutil.copy(one, tmp_path / "told"), lambda: Unfinished(tmp_path / "told", job.device))
    (tmp_path / "told").write_bytes(sealed(save({**load(unsealed(one)), "spent": np.array([1e6, 2e6])})))
    taken = Unfinished(tmp_path / "told", job.device).spent()
    assert [round(one, -3) for one in taken] == [1e6, 2e6]  # by earlier calls too
    seen: list[None] = []
    found = attacked(lambda: seen.append(None), "one")
    assert len(seen) == 2 * knowing.draws  # the last two steps
    assert np.array_equal(found, attacked(never, "another"))


def test_another_description_of_the_same_weights_is_another_model(
    out: Path, keywords: Keywords, tmp_path: Path
) -> None:
    other = shutil.copytree(keywords["model"], tmp_path / "model")
    told = json.loads((other / "model.json").read_bytes())
    for change, words in (
        ({"recipe": {**told["recipe"], "mean": [0.4, 0.5, 0.6]}}, "was made with recipe mean"),
        ({"classes": told["classes"][::-1]}, "was made with classes"),
    ):
        (other / "model.json").write_text(json.dumps({**told, **change}))
        with pytest.raises(ConflictError, match=words):
            audit(out, **{**keywords, "model": other})


def test_the_length_of_all_changes_together(keywords: Keywords, tmp_path: Path) -> None:
    asked = {**keywords, "model": str(keywords["model"]), "denoiser": str(keywords["denoiser"])}
    job = EvasionJob(tmp_path, EvasionOptions(**{**asked, "norm": "l2", "eps": 300}))
    changed = job._attacked(job.protected[0], range(3), 3, never, Unfinished(tmp_path / "one", job.device))
    lengths = np.sqrt(np.square(changed.astype(float) - job.found.pixels[:3]).sum((1, 2, 3)))
    assert 0.9 * 300 < lengths.min() and lengths.max() <= 300
    assert (
        told_of(job.options.budget)
        == "up to 300 grey levels in Euclidean length (about 1.18, pixel values from 0 to 1)"
    )


def test_what_it_refuses(keywords: Keywords, certificate: Path, raw: Path, tmp_path: Path) -> None:
    def refused(kind: type[Exception], words: str, **changed: Any) -> None:
        with pytest.raises(kind, match=words):
            audit(tmp_path / "no", **{**keywords, **changed})

    refused(UsageError, "missing option '--model'", model=None)
    refused(UsageError, "missing option '--test'", test=None)
    refused(UsageError, "norm 'l1' is not known", norm="l1")
    refused(UsageError, "eps must be a number from 1 to 255", eps=256)
    refused(UsageError, "grey levels in Euclidean length", eps=0, norm="l2")
    refused(UsageError, "defence 'jpeg-75' is nothing that a test image goes through", defence="jpeg-75")
    refused(UsageError, "sigma must be above 0", sigma="0")
    refused(InputError, "16 test images are to be attacked, and 15 have a label", targets=16)
    refused(InputError, "is no model", model=str(raw))
    refused(InputError, "is not there", certificate=(raw / "blue",))
    refused(InputError, "is about another model, denoiser or sigma", certificate=(certificate,), sigma="0.2")
    refused(InputError, "several certificates are about sanitized at 0.1", certificate=(certificate, certificate))
    refused(InputError, "is about other test images", certificate=(certificate,), test=raw)
    assert not (tmp_path / "no").exists()


def test_the_command_line(
    out: Path, certificate: Path, keywords: Keywords, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [f"--{name}={value}" for name, value in keywords.items()]
    assert run(["audit", "--attack", "pgd", "--dry-run", "--json", "--out", str(tmp_path / "audit"), *given]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["seconds"] > 0 and told["targets"] == TARGETS and list(tmp_path.iterdir()) == []
    assert told["defences"] == ["none", "sanitized at 0.1"]
    assert run(["audit", "--attack", "pgd", "--out", str(out), "--certificate", str(certificate), *given]) == 0
    told = capsys.readouterr().out
    assert "is already complete: pgd, 9 test images.\nBy changes of up to 16 of 255 grey levels" in told
    assert "\n  sanitized at 0.1, the attacker knows it too: " in told and "; proved for 0\n" in told
    assert "Next" not in told
    result = AuditResult(str(out), "", "pgd", TARGETS, report(out)["rows"][:1], True, 0.0, [])
    _tell_at_test_time(result)
    assert "Next, what is proved for this model: dpclean certify --threat evasion" in capsys.readouterr().out
    for asked, words in (
        (["raw", "--attack", "pgd"], "RAW has no meaning with --attack pgd"),
        (["--attack", "pgd", "--poisons", "3"], "--poisons has no meaning with --attack pgd"),
        (["raw", "--model", "x"], "--model has a meaning with --attack pgd only"),
    ):
        assert run(["audit", *asked]) == 2
        assert words in capsys.readouterr().err
    assert run(["audit", "--list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["attacks"][-1]["name"] == "pgd"
