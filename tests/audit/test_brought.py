"""Poisons that were made elsewhere: folders of `audit` and of the poisoning benchmark, and pickles that want more."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dpclean.audit.benchmark_pickles import read_benchmark
from dpclean.audit.job import audit
from dpclean.errors import ConflictError, InputError, UsageError

Keywords = dict[str, Any]
EPS = 24


@pytest.fixture(scope="module")
def keywords(model: Path, test_images: Path) -> Keywords:
    return {"extractor": model, "test": test_images, "defence": "none", "threads": 1, "workers": 1, "device": "cpu"}


@pytest.fixture(scope="module")
def made(raw: Path, keywords: Keywords, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "audit"
    audit(raw, out, eps=EPS, poisons=6, targets=2, **keywords)
    return out


def pickled(folder: Path, made: Path, **changed: Any) -> Path:
    """The poisons of the first trial as the benchmark has them."""
    source = made / "poisons" / "0001"
    told = json.loads((source / "poisons.json").read_bytes())

    def image(name: str) -> Image.Image:
        with Image.open(source / name) as file:
            return file.convert("RGB")

    written = {
        "poisons": [(image(poison["file"]), np.int64(3)) for poison in told["poisons"]],
        "base_indices": np.array([poison["index"] for poison in told["poisons"]]),
        "target": (image("target.png"), 5),
        **changed,
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in written.items():
        (folder / f"{name}.pickle").write_bytes(pickle.dumps(value, pickle.HIGHEST_PROTOCOL))
    return folder


def verdicts(out: Path) -> list[Any]:
    return [trial["verdicts"] for trial in json.loads((out / "audit.json").read_bytes())["trials"]]


def test_what_audit_wrote_is_loaded_again(raw: Path, made: Path, keywords: Keywords, tmp_path: Path) -> None:
    told = audit(raw, tmp_path / "again", poisons_from=made, **keywords)
    assert told.targets == 2 and verdicts(tmp_path / "again") == verdicts(made)
    for name in ("0001/000.png", "0002/005.png", "0002/target.png"):
        assert (tmp_path / "again" / "poisons" / name).read_bytes() == (made / "poisons" / name).read_bytes()
    report = json.loads((tmp_path / "again" / "audit.json").read_bytes())
    assert report["attack"] == "brought" and report["parameters"]["eps"] == EPS
    before, after = (json.loads((out / "audit.json").read_bytes())["rows"][0] for out in (made, tmp_path / "again"))
    for name in ("distance_before", "distance_after"):
        assert after[name] == pytest.approx(before[name], rel=1e-3)


def test_those_of_the_benchmark_find_their_places(raw: Path, made: Path, keywords: Keywords, tmp_path: Path) -> None:
    folder = pickled(tmp_path / "bench" / "0", made)
    audit(raw, tmp_path / "out", poisons_from=folder.parent, **keywords)
    assert verdicts(tmp_path / "out") == verdicts(made)[:1]
    told, wanted = (json.loads((out / "poisons/0001/poisons.json").read_bytes()) for out in (tmp_path / "out", made))
    assert (told["target"], told["poisons"]) == (wanted["target"], wanted["poisons"])


def test_poisons_of_several_attackers_are_told_of(raw: Path, made: Path, keywords: Keywords, tmp_path: Path) -> None:
    for name, knows in (("0001", None), ("0001-adaptive-0.1", "sanitized at 0.1")):
        shutil.copytree(made / "poisons" / "0001", tmp_path / "both" / name)
        path = tmp_path / "both" / name / "poisons.json"
        told = json.loads(path.read_bytes())
        told["settings"]["crafted_for"] = knows
        path.write_text(json.dumps(told))
    said = audit(raw, tmp_path / "out", poisons_from=tmp_path / "both", **keywords).warnings
    assert any("those who know no defence, sanitized at 0.1" in one for one in said)
    assert "trials on a target that another trial has too, so the intervals are too narrow: 1" in said


class Runs:
    def __init__(self, spied: Path) -> None:
        self.spied = spied

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.spied),)


def test_nothing_in_a_pickle_is_run(made: Path, tmp_path: Path) -> None:
    spied = tmp_path / "spied"
    for name in ("poisons", "target"):
        folder = pickled(tmp_path / name, made, **{name: [Runs(spied)]})
        with pytest.raises(InputError, match=r"names 'posix.mkdir', which no image needs; nothing was run"):
            read_benchmark(folder)
        assert not spied.exists()


SMALL = pickle.dumps([(Image.new("RGB", (4, 3)), 1)])
HUGE = pickle.dumps((Image.new("L", (1 << 10, 1 << 10)), 1), 4)  # after protocol and frame one pair
SIZE = b"K\x04K\x03\x86"  # as it stands in there


@pytest.mark.parametrize(
    ("poisons", "words"),
    [
        (b"", "is no pickle"),
        (b"\x80\x05\x96" + struct.pack("<Q", 1 << 45) + b".", "no image needs"),  # bytes that never come
        (b"\x80\x04})" + 60 * b"2\x86" + b"K\x01s.", "no image needs"),  # a key that is hashed for ever
        (b"\x80\x04}()" + 60 * b"2\x86" + b"K\x01u.", "no image needs"),
        (b"\x80\x04\x8f.", "no image needs"),
        (SMALL.replace(b"\x8c\x03RGB", b"]"), "an image of a strange mode"),
        (b"\x80\x04](" + HUGE[11:-1] + 100 * b"2" + b"e.", "more pixels than it has bytes"),
        (b"\x80\x04]", "is no pickle"),
        (b"\x80\x04r\xff\xff\xff\x7f.", "is no pickle"),  # to be remembered at place 2,147,483,647
        (b"\x80\x04Pwhat\n.", "refers to what is outside of it"),
        (pickle.dumps({}), "is no list of poisons"),
        (pickle.dumps([("text", 1)]), "something else than pairs of an image and a label"),
        (pickle.dumps([(Image.new("RGB", (4, 3)), 1, None, [0, 0])]), "has a trigger"),
        (pickle.dumps([(Image.new("CMYK", (4, 3)), 1)]), "an image of mode 'CMYK'"),
        (SMALL.replace(SIZE, b"K\x05K\x03\x86"), "more or fewer bytes"),
        (SMALL.replace(SIZE, b"K\x00K\x03\x86"), "impossible size"),
    ],
)
def test_what_is_no_pickle_of_images_is_refused(poisons: bytes, words: str, made: Path, tmp_path: Path) -> None:
    folder = pickled(tmp_path / "bench", made)
    (folder / "poisons.pickle").write_bytes(poisons)
    with pytest.raises(InputError, match=words):
        read_benchmark(folder)


def test_poisons_that_do_not_fit_are_refused(raw: Path, made: Path, keywords: Keywords, tmp_path: Path) -> None:
    def refused(folder: Path, words: str, kind: type[Exception] = InputError, **changed: Any) -> None:
        with pytest.raises(kind, match=words):
            audit(raw, tmp_path / "no", poisons_from=folder, **{**keywords, **changed})

    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "there are no poisons in")
    strange = Image.fromarray(np.full((16, 16, 3), 255, np.uint8))
    refused(pickled(tmp_path / "a", made, target=(strange, 0)), "is not among the test images")
    refused(
        pickled(tmp_path / "b", made, poisons=[(strange, 0)]), "poison 0 in .* is within 64 grey levels of no image"
    )
    own = tmp_path / "own"
    shutil.copytree(made / "poisons" / "0001", own)
    text = (own / "poisons.json").read_text()
    for name, changed in (
        ("which is no image beside it", text.replace("000.png", "999.png")),
        ("which is no image beside it", text.replace("000.png", "../0002/000.png")),
        ("which is not an image of RAW", text.replace('"name": "', '"name": "x')),
        ("tells of no poisons", text[:-5]),
    ):
        (own / "poisons.json").write_text(changed)
        refused(own, name)
    (own / "poisons.json").write_text(text.replace('"format": 1', '"format": 2'))
    refused(own, "has format 2, this dpclean reads up to 1", ConflictError)
    (own / "poisons.json").write_text(text.replace('"target": "', '"target": "no-'))
    refused(own, "own' names 'no-.*', which is not a test image")
    refused(made, "--adaptive and --setups have no meaning", UsageError, adaptive=True)
    assert not (tmp_path / "no").exists()
