"""The examples are run as their users run them: with make, with a shell, on files."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from dpclean.cli.app import command

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """PATH with the dpclean and the python3 that these tests run with."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, words in {"dpclean": "-m dpclean", "python3": ""}.items():
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" {words} "$@"\n')
        program.chmod(0o755)
    # a network's first, empty batch takes as long as a full one: these are of the few images that there are
    small = {f"DPCLEAN_{name}_BATCH_SIZE": "8" for name in ("SANITIZE", "CERTIFY", "DENOISER_FIT")}
    commands = ("SANITIZE", "TRAIN", "CERTIFY", "DENOISER_FIT", "DENOISER_EVAL", "PREDICT")
    small |= {f"DPCLEAN_{name}_WORKERS": "1" for name in commands}
    return {**os.environ, **small, "PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """21 images in two classes, one name with a space."""
    folder = tmp_path / "raw"
    rng = np.random.default_rng(7)
    for number in range(21):
        path = folder / ("cat", "dog")[number % 2] / f"photo {number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(path)
    return folder


def run(command: list[str], environment: dict[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)


def test_make_rule_sanitizes_when_something_changed_and_only_then(
    raw: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    command = ["make", "-s", "-f", str(ROOT / "examples" / "sanitize.mk"), "TRAIN=ls"]
    first = run(command, environment, tmp_path)
    assert first.returncode == 0, first.stderr
    assert {"cat", "dog", "dpclean.json"} <= set(first.stdout.split())
    made = (tmp_path / "clean" / "dpclean.json").stat().st_mtime_ns

    assert run(command, environment, tmp_path).returncode == 0
    assert (tmp_path / "clean" / "dpclean.json").stat().st_mtime_ns == made

    time.sleep(0.01)
    (raw / "cat" / "photo 0.png").rename(raw / "cat" / "renamed.png")
    again = run(command, environment, tmp_path)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "clean" / "cat" / "renamed.png").is_file()
    assert not (tmp_path / "clean" / "cat" / "photo 0.png").exists()


def test_pipeline_keeps_the_list_of_what_was_left_out(raw: Path, environment: dict[str, str], tmp_path: Path) -> None:
    (raw / "dog" / "empty.png").touch()
    done = run([str(ROOT / "examples" / "pipeline.sh"), "raw", "0.25", "clean"], environment, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "sanitized 21 images into clean, left out 1\n"
    listed = json.loads((tmp_path / "clean.quarantine.json").read_text("utf-8"))
    assert listed["quarantined"] == [{"name": "dog/empty.png", "reason": "empty"}]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [(["nowhere", "0.25", "clean"], 65, "bad input: "), (["raw", "25%", "clean"], 70, "not started: ")],
)
def test_pipeline_tells_refusals_apart(
    arguments: list[str], code: int, says: str, raw: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    done = run([str(ROOT / "examples" / "pipeline.sh"), *arguments], environment, tmp_path)
    assert done.returncode == code
    assert done.stderr.startswith(says)
    assert not (tmp_path / "clean").exists()


def test_the_certificate_that_is_shown_holds(environment: dict[str, str], tmp_path: Path) -> None:
    folder = ROOT / "examples" / "certificate"
    done = run([sys.executable, "-m", "dpclean", "verify", str(folder), "--json"], environment, tmp_path)
    told = json.loads(done.stdout)
    assert (told["status"], told["runs"], told["points"]) == ("ok", 1000, 30)
    page = (folder / "report.html").read_text("utf-8")
    assert f"{told['certified']} of 30 test images certified" in page


def test_the_certificate_against_whole_images_that_is_shown_holds(environment: dict[str, str], tmp_path: Path) -> None:
    """With the sentence that its page and its README quote."""
    folder = ROOT / "examples" / "whole-images"
    done = run([sys.executable, "-m", "dpclean", "verify", str(folder), "--json"], environment, tmp_path)
    told = json.loads(done.stdout)
    assert (told["status"], told["runs"], told["points"], told["certified"]) == ("ok", 1000, 30, 28)
    assert told["headline"] in (folder / "report.html").read_text("utf-8")
    quoted = (folder / "README.md").read_text("utf-8").replace("\n> ", " ")
    assert told["headline"] in quoted


def test_the_photographs_to_certify_are_many_enough_and_apart(environment: dict[str, str], tmp_path: Path) -> None:
    """At least 100 training and 30 test images in at least 3 classes; no test image is a training image."""
    done = run([sys.executable, str(ROOT / "examples" / "make_certify_photos.py"), "small"], environment, tmp_path)
    assert done.returncode == 0, done.stderr
    images = {split: sorted((tmp_path / "small" / split).glob("*/*.png")) for split in ("train", "test")}
    assert (len(images["train"]), len(images["test"])) == (120, 30)
    assert len({path.parent.name for path in images["train"]}) == 6
    contents = [path.read_bytes() for paths in images.values() for path in paths]
    assert len(set(contents)) == 150


def test_a_denoiser_is_fitted_and_held_against_the_bundled_one(
    raw: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    pytest.importorskip("skimage")
    program, held_out = str(ROOT / "examples" / "fit_denoiser.sh"), tmp_path / "held_out"
    (raw / "dog").rename(held_out)
    done = run([program, str(raw), str(held_out), "ours", "0.01"], environment, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "natural on 10 images" in done.stdout and "ours on 10 images" in done.stdout
    assert (tmp_path / "ours" / "samples.png").is_file()


def command_of(page: str, beginning: str) -> str:
    """The one command line of a page of docs/ that begins so."""
    lines = (ROOT / "docs" / page).read_text("utf-8").splitlines()
    (command,) = (line.strip() for line in lines if line.startswith(f"    {beginning}"))
    return command


@pytest.mark.parametrize("kind", ["folder", "shards"])
def test_the_trainer_of_the_documentation_certifies(environment: dict[str, str], tmp_path: Path, kind: str) -> None:
    """The command of docs/training.md, with fewer runs and a claim that needs no more."""
    rng = np.random.default_rng(0)
    for folder, count in (("raw", 8), ("test", 2)):
        images = {name: rng.integers(0, 90, (count, 16, 16, 3), np.uint8) for name in ("cat", "dog")}
        images["dog"] += 120
        for name, pixels in images.items():
            (tmp_path / folder / name).mkdir(parents=True)
            for number, image in enumerate(pixels):
                Image.fromarray(image).save(tmp_path / folder / name / f"{number}.png")
        if kind == "shards":
            shutil.rmtree(tmp_path / folder)
            tensors = {"images": np.concatenate(list(images.values())), "labels": np.arange(2).repeat(count)}
            save_file(tensors, tmp_path / f"{folder}.safetensors", {"class_names": json.dumps(list(images))})
    shutil.copy(ROOT / "examples" / "trainer.py", tmp_path)
    program = Path(environment["PATH"].split(":")[0]) / "python3"
    shutil.copy(program, program.with_name("python"))
    command = command_of("training.md", "dpclean certify ./raw").replace(
        "--runs 100", "--runs 4 --bound union --alpha 0.4"
    )
    if kind == "shards":
        command = command.replace("./raw", "raw.safetensors").replace("./test", "test.safetensors")
    done = run([*shlex.split(command), "--workers", "1", "--device", "cpu", "--json"], environment, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert told["certified"] == told["correct"] == 4 and told["failed"] == 0


# -- what README and docs show

DOCUMENTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")] + sorted(ROOT.glob("docs/*.md"))
NOT_RUN = "<!-- not run: "  # stands, with the reason, before a block that needs a GPU, a network or much time


def fenced(document: Path, language: str) -> list[str]:
    """The code of the blocks of a language that are to be run; one that is not is compiled only."""
    found = []
    for before, code in re.findall(rf"([^\n]*\n)```{language}\n(.*?)```", document.read_text("utf-8"), re.DOTALL):
        if language == "python":
            compile(code, str(document), "exec")
        if not before.startswith(NOT_RUN):
            found.append(code)
    return found


def typed(document: Path) -> list[list[str]]:
    """The command lines of dpclean in the indented blocks of a document, without comments and redirections."""
    lines = re.findall(r"^    dpclean (.*)$", document.read_text("utf-8"), re.MULTILINE)
    return [shlex.split(line.partition(" > ")[0], comments=True) for line in lines]


@pytest.fixture
def at_work(raw: Path, tmp_path: Path) -> Path:
    """A folder with the data that the documents speak of: ./raw, ./test."""
    rng = np.random.default_rng(8)
    for number in range(4):
        path = tmp_path / "test" / ("cat", "dog")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(path)
    return tmp_path


PROGRAMS = {"\n".join(found): document for document in DOCUMENTS if (found := fenced(document, "python"))}
# what stands in another document too is run with it
WHOLE = [program for program in PROGRAMS if not any(program in other for other in PROGRAMS if other != program)]


@pytest.mark.parametrize("program", WHOLE, ids=lambda program: PROGRAMS[program].name)
def test_the_python_of_a_document_runs(program: str, at_work: Path, environment: dict[str, str]) -> None:
    quick = 'runs=4, bound="union", alpha=0.4, recipe="tiny"'  # a claim that needs no more
    program = program.replace("runs=20", quick).replace("progress=True", "batch_size=8, progress=True")
    done = run([sys.executable, "-c", program], environment, at_work)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("document", [d for d in DOCUMENTS if typed(d)], ids=lambda path: path.name)
def test_the_commands_of_a_document_exist_with_their_options(document: Path) -> None:
    tree = command(None)
    for words in typed(document):
        found, context = tree, tree.make_context("dpclean", [], obj={}, resilient_parsing=True)
        while hasattr(found, "commands"):
            if words[0].startswith("-"):
                break
            name = words.pop(0)
            assert name in found.commands, f"{document.name}: dpclean {name}"
            found = found.commands[name]
            context = type(context)(found, parent=context, info_name=name)
        _, rest, _ = found.make_parser(context).parse_args(args=words)
        assert rest == [], f"{document.name}: {words}"


def test_the_documents_have_every_option_of_sanitize() -> None:
    table = (ROOT / "docs/cli.md").read_text("utf-8").partition("## Options of `dpclean sanitize`")[2]
    options = {name for parameter in command("sanitize").commands["sanitize"].params for name in parameter.opts}
    assert {name for name in options if name.startswith("--")} - set(re.findall(r"--[a-z-]+[a-z]", table)) == set()


def test_the_configuration_of_the_documents_is_one(at_work: Path, environment: dict[str, str]) -> None:
    (content,) = fenced(ROOT / "docs/cli.md", "toml")
    (at_work / "dpclean.toml").write_text(content)
    asked = ["sanitize", "raw", "--out", "clean", "--config", "dpclean.toml", "--dry-run", "--json"]
    done = run(["dpclean", *asked], environment, at_work)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["listed"] == 21
