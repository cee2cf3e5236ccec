"""`audit` from end to end: what it writes, that it goes on after a signal, and what it refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dpclean.audit.attacks.informed import Informed
from dpclean.audit.job import AuditJob, audit, dry_run
from dpclean.audit.options import AuditOptions
from dpclean.audit.poisons import folder_name, read_asked, read_pixels
from dpclean.audit.results import AuditResult
from dpclean.audit.victims import fine_tuned, heads
from dpclean.classifier_training.job import train
from dpclean.cli import audit as command_line
from dpclean.cli import run
from dpclean.errors import ConflictError, Diverged, InputError, Interrupted, UsageError
from dpclean.jobs.staging import Staging
from dpclean.jobs.tasks import Tasks
from dpclean.pipeline import sanitize
from dpclean.progress import Progress
from dpclean.train.extractor import find_extractor
from tests.audit.conftest import save
from tests.damage import refused_until_deleted

Keywords = dict[str, Any]
EPS, POISONS, TARGETS = 24, 6, 2
EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def keywords(model: Path, test_images: Path, denoiser: Path) -> Keywords:
    given = {"extractor": model, "test": test_images, "denoiser": denoiser, "sigma": "0.1,0.5"}
    return {**given, "eps": EPS, "poisons": POISONS, "targets": TARGETS, "threads": 1, "workers": 1, "device": "cpu"}


@pytest.fixture(scope="module")
def out(raw: Path, keywords: Keywords, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audited") / "audit"
    before = {path: path.read_bytes() for path in raw.rglob("*.png")}
    audit(raw, folder, **keywords)
    assert {path: path.read_bytes() for path in raw.rglob("*") if path.is_file()} == before
    return folder


def report(folder: Path) -> Any:
    return json.loads((folder / "audit.json").read_bytes())


def without_times(told: Any) -> Any:
    if isinstance(told, dict):
        return {name: without_times(one) for name, one in told.items() if not name.endswith("seconds")}
    return [without_times(one) for one in told] if isinstance(told, list) else told


def test_every_row_has_its_control_and_interval(out: Path) -> None:
    told = report(out)
    defences = ["none", "sanitized at 0.1", "sanitized at 0.5"]
    kinds = [(row["defence"], row["head"]) for row in told["rows"]]
    assert kinds == [(defence, head) for defence in defences for head in ("logistic", "sgd")]
    for row in told["rows"]:
        assert row["trials"] == TARGETS and 0 <= row["control"] <= TARGETS
        assert row["low"] <= row["succeeded"] / max(1, row["trials"] - row["skipped"]) <= row["high"]
        assert row["distance_after"] < 0.8 * row["distance_before"] and row["crafting_seconds"] > 0
        assert row["control_accuracy"] > 0.5
    assert told["headline"].startswith("Without a defence ") and "sanitized at 0.5, " in told["headline"]


def test_poisons_are_saved_so_that_others_can_load_them(out: Path, raw: Path, test_images: Path) -> None:
    folders = sorted((out / "poisons").iterdir())
    assert [folder.name for folder in folders] == ["0001", "0002"]
    for folder in folders:
        told = json.loads((folder / "poisons.json").read_bytes())
        assert told["target_class"] == told["target"].split("/")[0] != told["poison_class"]
        assert (np.array(Image.open(folder / "target.png")) == np.array(Image.open(test_images / told["target"]))).all()
        assert len({poison["name"] for poison in told["poisons"]}) == POISONS
        names = sorted(str(path.relative_to(raw)) for path in raw.rglob("*.png"))
        changes = []
        for poison in told["poisons"]:
            assert poison["name"].startswith(told["poison_class"] + "/") and names[poison["index"]] == poison["name"]
            before = np.array(Image.open(raw / poison["name"])).astype(int)
            changes.append(np.abs(np.array(Image.open(folder / poison["file"])) - before).max())
        assert max(changes) == EPS
        assert told["settings"]["attack"] == "bullseye-polytope" and told["settings"]["eps"] == EPS


def test_the_page_says_it_first_and_what_it_cannot_show(out: Path) -> None:
    page = (out / "report.html").read_text("utf-8")
    assert page.index(report(out)["headline"]) < page.index("<table")
    assert "What an audit cannot show" in page and page.count("<img") == TARGETS * 6  # before, after, behind two


def test_a_finished_audit_is_not_done_again(out: Path, raw: Path, keywords: Keywords) -> None:
    assert audit(raw, out, **keywords).already_complete


def test_it_goes_on_after_a_signal(out: Path, raw: Path, keywords: Keywords, tmp_path: Path) -> None:
    def stop(step: Progress) -> None:
        if step.finished == 1:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted, match="after 1 of 2"):
        audit(raw, tmp_path / "audit", progress=stop, **keywords)
    steps: list[Progress] = []
    audit(raw, tmp_path / "audit", progress=steps.append, **keywords)
    assert steps[0].finished == 1
    assert without_times(report(tmp_path / "audit")) == without_times(report(out))


def test_a_damaged_trial_is_named_and_done_again(out: Path, raw: Path, keywords: Keywords, tmp_path: Path) -> None:
    def stop(step: Progress) -> None:
        if step.finished == 1:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        audit(raw, tmp_path / "audit", progress=stop, **keywords)
    trial = Tasks(tmp_path / ".audit.dpclean" / "work").path(1)
    refused_until_deleted(trial, lambda: audit(raw, tmp_path / "audit", **keywords))
    audit(raw, tmp_path / "audit", **keywords)
    assert without_times(report(tmp_path / "audit")) == without_times(report(out))


def test_commands_on_one_out_share_the_trials(out: Path, raw: Path, keywords: Keywords, tmp_path: Path) -> None:
    tasks = Tasks(tmp_path / ".audit.dpclean/work")
    steps: list[Progress] = []
    with ExitStack() as elsewhere:

        def show(step: Progress) -> None:
            if not steps:
                assert step.finished == 0 and elsewhere.enter_context(tasks.claim(1))
            elif step.finished == 1:
                assert tasks.done() == {2}  # the first one is another's
                elsewhere.close()
                assert not audit(raw, tmp_path / "audit", **keywords).already_complete
            steps.append(step)

        audit(raw, tmp_path / "audit", progress=show, **keywords)
    assert len(steps) == 2  # the rest was done by the other command
    assert without_times(report(tmp_path / "audit")) == without_times(report(out))
    assert sorted(path.name for path in (tmp_path / "audit/poisons").iterdir()) == ["0001", "0002"]


def test_of_a_victim_that_does_not_converge_nothing_is_left(
    raw: Path, keywords: Keywords, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heads, "GRADIENT", 0.0)
    with pytest.raises(Diverged, match="does not converge"):
        audit(raw, tmp_path / "audit", **{**keywords, "sigma": "0.1"})
    assert list(tmp_path.iterdir()) == []


STEPS = 8  # of crafting through a denoiser
KILLED = f"""
import os, signal, sys
from dpclean.audit.attacks.informed import Informed
from dpclean.audit.job import audit
Informed.most_steps = {STEPS}
def stop(step):
    if step.finished == 1:
        os.kill(os.getpid(), signal.SIGKILL)
audit(progress=stop, **eval(sys.argv[1]))
"""


def test_attackers_who_know_the_defence_and_a_filter_go_on_after_a_kill(
    raw: Path, keywords: Keywords, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Informed, "most_steps", STEPS)
    filters = f"{sys.executable} {EXAMPLES / 'filter.py'} {{data}} {{out}}"
    asked = {**keywords, "adaptive": True, "sigma": "0.5", "defence": ("sanitized,deep-knn,spectral", filters)}
    given = {name: os.fspath(value) if isinstance(value, Path) else value for name, value in asked.items()}
    given |= {"raw": str(raw), "out": str(tmp_path / "killed")}
    assert subprocess.run([sys.executable, "-c", KILLED, repr(given)]).returncode == -signal.SIGKILL
    assert not (tmp_path / "killed").exists()
    steps: list[Progress] = []
    audit(raw, tmp_path / "killed", progress=steps.append, **asked)
    assert steps[0].finished == 1
    audit(raw, tmp_path / "whole", **asked)
    told = report(tmp_path / "killed")
    assert without_times(told) == without_times(report(tmp_path / "whole"))
    tried = [(row["crafted_for"], row["defence"]) for row in told["rows"][::2]]
    alone = ["none", "sanitized at 0.5", "deep-knn", "spectral", filters]
    assert tried == [*((None, defence) for defence in alone), (0.5, "sanitized at 0.5")]
    folders = sorted(folder.name for folder in (tmp_path / "killed" / "poisons").iterdir())
    assert folders == ["0001", "0001-adaptive-0.5", "0002", "0002-adaptive-0.5"]
    assert "filter.py" in (tmp_path / "killed" / "report.html").read_text()


def test_several_purifiers_each_with_one_who_knows_it(raw: Path, keywords: Keywords, tmp_path: Path) -> None:
    asked = {**keywords, "extractor": str(keywords["extractor"]), "denoiser": str(keywords["denoiser"])}
    asked |= {"adaptive": True, "sigma": "0.5", "targets": 1, "defence": "sanitized,sanitized:ddim:2"}
    job = AuditJob(raw, tmp_path / "audit", AuditOptions(**asked))
    foes = job.foes(job.found.victim)
    names = ["sanitized at 0.5", "sanitized:ddim:2 at 0.5"]
    assert [[defence.label for defence in foe.defences] for foe in foes] == [
        ["none", *names],
        *([one] for one in names),
    ]
    assert [(foe.crafted_for, foe.knows) for foe in foes] == [(None, None), *((0.5, one) for one in names)]
    assert [folder_name(1, foe.knows) for foe in foes] == ["0001", "0001-adaptive-0.5", "0001-adaptive-ddim-2-0.5"]
    assert set(job.parameters()["defences"][names[1]]) == {"denoiser", "method"}


def test_an_attacker_with_another_network(raw: Path, model: Path, keywords: Keywords, tmp_path: Path) -> None:
    other = tmp_path / "other"
    train(save(tmp_path / "data", 20, 4), other, recipe="tiny", device="cpu", seed=2, threads=1, workers=1)
    audit(raw, tmp_path / "audit", **{**keywords, "defence": "none", "targets": 1, "surrogate": str(other)})
    told = report(tmp_path / "audit")
    his, its = (find_extractor(str(one), device=torch.device("cpu")) for one in (other, model))
    assert told["parameters"]["extractor"] == its.digest != his.digest
    assert told["parameters"]["surrogate"]["extractor"] == his.digest
    assert any("does not have the victim's network" in remark and str(other) in remark for remark in told["remarks"])
    folder = tmp_path / "audit" / "poisons" / "0001"
    rows, target = his.features(read_pixels(folder, POISONS)), his.features([read_asked(folder)])[0]
    distance = np.linalg.norm(rows.mean(0) - target) / np.linalg.norm(target)
    assert told["rows"][0]["distance_after"] == pytest.approx(distance, abs=2e-4)


def test_a_victim_that_learns_on(
    raw: Path, keywords: Keywords, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fine_tuned, "LEAST_STEPS", 30)
    asked = {**keywords, "defence": "none", "targets": 1, "victim": "fine-tuned", "attack": "badnets"}
    audit(raw, tmp_path / "audit", **asked)
    (row,) = report(tmp_path / "audit")["rows"]
    assert row["head"] == "fine-tuned" and row["control_accuracy"] > 0.5


def test_setups_name_targets_and_bases(raw: Path, keywords: Keywords, tmp_path: Path) -> None:
    setup = {"target": "red/002.png", "poison_class": "blue", "bases": ["blue/003.png", "blue/000.png"]}
    file = tmp_path / "setups.json"
    asked = {**keywords, "sigma": "0.5", "targets": 1, "setups": file}
    file.write_text(json.dumps([setup]))
    audit(raw, tmp_path / "audit", **asked)
    told = json.loads((tmp_path / "audit" / "poisons" / "0001" / "poisons.json").read_bytes())
    assert told["target"] == "red/002.png" and [one["name"] for one in told["poisons"]] == setup["bases"]
    for wrong, words in (
        ({"target": "red/999.png"}, "'red/999.png', which is not a test image"),
        ({"bases": ["red/002.png"]}, "a base that is not of the poison class"),
        ({"poison_class": "red", "bases": ["red/002.png"]}, "of the poison class already"),
        ({"bases": []}, "no bases"),
    ):
        file.write_text(json.dumps([{**setup, **wrong}]))
        with pytest.raises(InputError, match=words):
            audit(raw, tmp_path / "no", **asked)
    file.write_text("[{}]")
    with pytest.raises(InputError, match="cannot be read"):
        audit(raw, tmp_path / "no", **asked)


def test_what_it_refuses(raw: Path, model: Path, keywords: Keywords, tmp_path: Path) -> None:
    def refused(kind: type[Exception], words: str, given: Path = raw, **changed: Any) -> None:
        with pytest.raises(kind, match=words):
            audit(given, tmp_path / "no", **{**keywords, **changed})

    refused(UsageError, "eps must be", eps=0)
    refused(UsageError, "sigma must be above 0", sigma="0.1,0")
    refused(UsageError, "attack 'x' is not known", attack="x")
    refused(UsageError, "defence 'x' is not known", defence="sanitized,x")
    refused(UsageError, "none of these is one that they can", defence="jpeg-75,spectral", adaptive=True)
    refused(UsageError, "missing option '--extractor'", extractor=None)
    refused(UsageError, "victim 'x' is neither 'frozen', 'fine-tuned' nor a recipe", victim="x")
    refused(UsageError, "takes no extractor", victim="tiny")
    refused(UsageError, "missing option '--extractor'", victim="fine-tuned", extractor=None)
    refused(UsageError, "which is not given", surrogate_weights=model)
    refused(UsageError, "learns from scratch, and so does", victim="tiny", extractor=None, surrogate=model)
    refused(UsageError, "takes no weights", victim="tiny", extractor=None, surrogate="fast", surrogate_weights=model)
    refused(UsageError, "bullseye-polytope works by the features of a frozen", victim="tiny", extractor=None)
    refused(InputError, "fewer than two classes have the 16 images", poisons=16)
    refused(InputError, "16 targets are wanted, and 15", targets=16)
    refused(InputError, "1 targets are wanted, and 0", test=raw, targets=1)  # all of them are in RAW
    data = model.parent / "data"
    refused(InputError, "60 of the images of RAW went into the extractor", given=data)
    sanitize(raw, tmp_path / "clean", sigma=0.25, denoiser=str(keywords["denoiser"]), workers=1)
    refused(InputError, "is sanitized already, at sigma 0.25", given=tmp_path / "clean")
    assert not (tmp_path / "no").exists()


def test_a_dry_run_writes_nothing(raw: Path, keywords: Keywords, tmp_path: Path) -> None:
    told = dry_run(raw, tmp_path / "audit", **keywords)
    assert told.seconds > 0 and told.poisons == POISONS and told.defences[0] == "none"
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_looks_at_what_is_there(out: Path, raw: Path, keywords: Keywords, tmp_path: Path) -> None:
    assert dry_run(raw, out, **keywords).warnings[-1] == "OUT is complete already, so nothing would be done"
    with pytest.raises(ConflictError, match="was made with eps 24; this command asks for eps 25"):
        dry_run(raw, out, **{**keywords, "eps": EPS + 1})
    (tmp_path / "file").touch()
    with pytest.raises(ConflictError, match="is a file"):
        dry_run(raw, tmp_path / "file", **keywords)


def test_what_was_refused_before_anything_was_done_is_forgotten(raw: Path, keywords: Keywords, tmp_path: Path) -> None:
    asked = {**keywords, "targets": 1, "sigma": "0.1"}
    for changed in ({"sigma": "1e-9"}, {"defence": "true {data} {out}"}):
        with pytest.raises((UsageError, InputError), match=r"outside the denoiser's schedule|left none of"):
            audit(raw, tmp_path / "audit", **{**asked, **changed})
    assert list(tmp_path.iterdir()) == []  # so the command can be mended and given again
    asked["defence"], staging = "true {data} {out}", Staging(tmp_path / "audit")
    with ExitStack() as other:
        with pytest.raises(InputError, match="left none of"):
            audit(raw, staging.out, progress=lambda _: other.enter_context(staging.at_work()), **asked)
        assert staging.begun() is not None  # another command is at work on it
    with pytest.raises(InputError, match="left none of"):
        audit(raw, staging.out, **asked)
    assert list(tmp_path.iterdir()) == []


def test_names_that_are_no_utf_8_go_through_all_files(
    raw: Path, test_images: Path, keywords: Keywords, tmp_path: Path
) -> None:
    for name, given in (("raw", raw), ("test", test_images)):
        for place, path in enumerate(given.rglob("*.png")):
            target = tmp_path / name / path.parent.name / os.fsdecode(b"\xff\n<b>%d.png" % place)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.hardlink_to(path)
    asked = {**keywords, "test": tmp_path / "test", "targets": 1, "defence": "none"}
    audit(tmp_path / "raw", tmp_path / "audit", **asked)
    assert audit(tmp_path / "raw", tmp_path / "audit", **asked).already_complete
    assert "<b>" not in (tmp_path / "audit" / "report.html").read_text("utf-8")
    told = json.loads((tmp_path / "audit/poisons/0001/poisons.json").read_bytes())
    assert os.fsencode(told["target"]).split(b"/")[1].startswith(b"\xff\n<b>")
    bases = [poison["name"] for poison in told["poisons"]]
    setups = [{"target": told["target"], "poison_class": told["poison_class"], "bases": bases}]
    (tmp_path / "setups.json").write_text(json.dumps(setups))
    for changed in ({"setups": tmp_path / "setups.json"}, {"poisons_from": tmp_path / "audit"}):
        audit(tmp_path / "raw", tmp_path / "again", **asked, **changed, overwrite=True)
        again = report(tmp_path / "again")["trials"][0]
        assert again["trial"]["bases"] == report(tmp_path / "audit")["trials"][0]["trial"]["bases"]


def test_folders_of_poisons_are_as_many_as_attackers() -> None:
    assert folder_name(7, "sanitized:perceptual:ddim:4 at 0.1") == "0007-adaptive-perceptual-ddim-4-0.1"
    known = [f"sanitized:{name} at 0.1" for name in ("a-b", "a/b", "a:b", "\udcff", "\udcfe", 300 * "x", 301 * "x")]
    assert len({folder_name(1, one) for one in known}) == len(known)
    assert all(len(folder_name(1, one)) < 150 for one in known)


def test_what_is_told_holds_no_commands_for_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    row = {name: 0 for name in ("succeeded", "trials", "skipped", "low", "high", "control", "accuracy")}
    row |= {"defence": "\x1b[31m", "knows": "\x1b[32m", "head": "sgd"}
    command_line._tell(AuditResult("\x1b[33m", "\x1b[34m", "badnets", 1, [row], False, 1.0, ["\x1b[35m"]))
    assert "\x1b" not in capsys.readouterr().out


def test_the_list_names_papers(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["audit", "--list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert "Aghakhani" in listed["attacks"][0]["paper"] and listed["defences"][0]["name"] == "none"
    assert "partitions:K" in [one["name"] for one in listed["defences"]]
    for brought, ignored in (("--poisons-from", "--attack"), ("--poisons-from", "--eps"), ("--setups", "--poisons")):
        assert run(["audit", "raw", brought, "x", ignored, "badnets" if ignored == "--attack" else "3"]) == 2
        assert f"{ignored} has no meaning with {brought}" in capsys.readouterr().err
    assert run(["audit"]) == 2
    assert "missing argument 'RAW'" in capsys.readouterr().err
