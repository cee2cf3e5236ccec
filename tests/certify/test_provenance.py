"""Where denoisers and initial weights come from: what was made of the data to be certified is refused, however."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from msgspec import UNSET
from PIL import Image

import dpclean
from dpclean.certificate.assumptions import assumptions, warnings
from dpclean.certificate.parameters import JobParameters
from dpclean.certify.inputs import find_source, read_certified_data
from dpclean.certify.job import certify
from dpclean.certify.options import CertifyOptions
from dpclean.certify.parameters import make_parameters
from dpclean.classifier_training.inputs import data_options
from dpclean.classifier_training.job import train
from dpclean.cli import run
from dpclean.data import manifest as manifests
from dpclean.data.ancestry import Ancestry, read_ancestry
from dpclean.data.digest import pixel_sha256
from dpclean.denoiser_training.fit import fit
from dpclean.errors import InputError, UsageError
from tests.certify.conftest import colour_image, write_folder
from tests.networks import make_denoiser

FEW: dict[str, Any] = {"runs": 6, "bound": "union", "alpha": "0.1", "workers": 1, "device": "cpu"}


def begun(path: Path, **options: Any) -> JobParameters:
    """The parameters of a job, after everything that `certify` checks before the first run."""
    asked = CertifyOptions(**{**FEW, "sigma": "0.25", **options})
    return make_parameters(read_certified_data(find_source(path, asked), asked), asked)


def trained(clean: Path, out: Path, **options: Any) -> Path:
    train(clean, out, **{"recipe": "tiny@16", "device": "cpu", "workers": 1, **options})
    return out


@pytest.fixture
def others(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "others", 4, first=500)


def test_a_denoiser_fitted_to_the_data_is_refused_whatever_it_began_from(
    raw: Path, others: Path, tmp_path: Path, transparent: str
) -> None:
    """transparent has no ancestry, and so nobody knows all that those fitted from it were made of."""
    for name, images in (("of raw", raw), ("of others", others)):
        fit([images], tmp_path / name, init=transparent, steps=1, batch_size=4, workers=1)
    with pytest.raises(InputError, match="27 of the images to be certified went into the denoiser"):
        begun(raw, denoiser=str(tmp_path / "of raw"))
    said = " ".join(assumptions(begun(raw, denoiser=str(tmp_path / "of others"))))
    assert "None of the 12 images that are recorded to have gone into the denoiser is among these, but" in said
    assert f"incomplete, because nothing tells what the denoiser {transparent!r} was made of" in said
    assert "None of this could be checked" in " ".join(assumptions(begun(raw, denoiser=transparent)))


def test_weights_trained_on_the_data_are_refused_whatever_they_began_from(
    raw: Path, tmp_path: Path, transparent: str
) -> None:
    dpclean.sanitize(raw, tmp_path / "clean", sigma=0.25, denoiser=transparent, device="cpu", workers=1)
    first = trained(tmp_path / "clean", tmp_path / "first")
    alone = shutil.copy(first / "model.safetensors", tmp_path / "alone.safetensors")
    model = trained(tmp_path / "clean", tmp_path / "model", init=str(alone))
    with pytest.raises(InputError, match="27 of the images"):
        begun(raw, denoiser=transparent, init=str(model))
    read_ancestry(model / "dpclean.ancestry")
    (model / "dpclean.ancestry").write_bytes(Ancestry().dump())
    with pytest.raises(InputError, match="the data to be certified went into the weights"):  # model.json names them
        begun(raw, denoiser=transparent, init=str(model))
    (model / "dpclean.ancestry").unlink()
    with pytest.raises(InputError, match="missing"):
        begun(raw, denoiser=transparent, init=str(model))
    said = " ".join(assumptions(begun(raw, denoiser=transparent, init=str(alone))))
    assert "what went into them is not known, because nothing tells what the weights 'alone.safetensors'" in said


def test_a_denoiser_made_of_the_data_is_remembered_by_all_that_it_sanitized(
    raw: Path, others: Path, tmp_path: Path, transparent: str
) -> None:
    fit([raw], tmp_path / "denoiser", init=transparent, steps=1, batch_size=4, workers=1)
    options = {"sigma": 0.25, "device": "cpu", "workers": 1}
    dpclean.sanitize(others, tmp_path / "clean", denoiser=str(tmp_path / "denoiser"), **options)
    model = trained(tmp_path / "clean", tmp_path / "model")
    with pytest.raises(InputError, match="27 of the images to be certified went into the weights"):
        begun(raw, denoiser=transparent, init=str(model))
    dpclean.sanitize(tmp_path / "clean", tmp_path / "twice", denoiser=transparent, **options)  # and once more
    assert read_ancestry(tmp_path / "twice/dpclean.ancestry").shared_images(read_ancestry(model / "dpclean.ancestry"))
    with pytest.raises(InputError, match="27 of the images"):
        begun(raw, denoiser=transparent, init=str(trained(tmp_path / "twice", tmp_path / "second")))


def test_a_file_of_weights_is_read_with_what_lies_beside_it(
    raw: Path, others: Path, tmp_path: Path, transparent: str
) -> None:
    dpclean.sanitize(others, tmp_path / "clean", sigma=0.25, denoiser=transparent, device="cpu", workers=1)
    warm = trained(tmp_path / "clean", tmp_path / "warm", warm_start=others, warm_epochs=1)
    (tmp_path / "link.safetensors").symlink_to(warm / "model.safetensors")
    shutil.copy(warm / "model.safetensors", warm / "copy.safetensors")
    for path in (warm, warm / "model.safetensors", warm / "copy.safetensors", tmp_path / "link.safetensors"):
        with pytest.raises(InputError, match=r"not certifiable: training began on raw data"):
            begun(raw, denoiser=transparent, init=str(path))
    after = trained(tmp_path / "clean", tmp_path / "after", init=str(warm / "model.safetensors"))
    assert "begun from" in json.loads((after / "model.json").read_text())["not_certifiable"][0]
    assert read_ancestry(after / "dpclean.ancestry").dump() == read_ancestry(warm / "dpclean.ancestry").dump()


def test_models_that_runs_left_are_no_weights_to_begin_from(raw: Path, tmp_path: Path, transparent: str) -> None:
    """They are functions of the data, through other noise than that of the new job."""
    certify(
        raw, tmp_path / "out", denoiser=transparent, sigma="0.25", keep_models=True, recipe="tiny@16",
        **{**FEW, "runs": 4, "alpha": "0.4"},
    )  # fmt: skip
    with pytest.raises(InputError, match="27 of the images to be certified went into the weights"):
        begun(raw, denoiser=transparent, init=str(tmp_path / "out/models/0000002.safetensors"))


def test_test_points_may_not_have_been_seen_where_they_may_be_changed(
    raw: Path, tmp_path: Path, transparent: str
) -> None:
    test = write_folder(tmp_path / "points", 1, first=900)
    seen = shutil.copytree(transparent, tmp_path / "seen")
    (seen / "dpclean.ancestry").write_bytes(Ancestry.of([pixel_sha256(colour_image(0, 900))]).dump())
    terms = begun(raw, denoiser=str(seen), test=test)
    assert any(warning.startswith("1 test points went into the denoiser") for warning in warnings(terms))
    with pytest.raises(InputError, match="1 of the images to be certified went into the denoiser"):
        begun(raw, denoiser=str(seen), test=test, threat="noised-test")


def test_one_image_that_was_seen_is_named_and_without_it_all_is_well(
    raw: Path, tmp_path: Path, transparent: str
) -> None:
    seen, copied = shutil.copytree(transparent, tmp_path / "seen"), raw / "train" / "red" / "copied.png"
    (seen / "dpclean.ancestry").write_bytes(Ancestry.of([pixel_sha256(colour_image(0, 900))]).dump())
    Image.fromarray(colour_image(0, 900)).save(copied)
    with pytest.raises(InputError, match=r"1 of the images .* while they change \('train/red/copied.png'\)"):
        begun(raw, denoiser=str(seen))
    copied.unlink()
    assert begun(raw, denoiser=str(seen))


def test_a_damaged_record_is_no_record(raw: Path, tmp_path: Path, transparent: str) -> None:
    spoilt = shutil.copytree(transparent, tmp_path / "spoilt")
    (spoilt / "dpclean.ancestry").write_bytes(Ancestry.of([bytes(8)]).dump()[:-5])
    with pytest.raises(InputError, match="damaged"):
        certify(raw, tmp_path / "out", denoiser=str(spoilt), sigma="0.25", **FEW)
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


# -- a manifest that strangers put into raw data


def sanitized(raw: Path, out: Path, denoiser: str, **options: Any) -> Path:
    dpclean.sanitize(raw, out, sigma=0.25, denoiser=denoiser, device="cpu", workers=1, **options)
    return out


def edit(clean: Path, *, sums: bool = True, **changed: dict[str, Any]) -> None:
    """Change fields of a manifest, and its checksum too, as a forger would."""
    path = clean / "dpclean.json"
    before, fields = path.read_bytes(), json.loads(path.read_bytes())
    for name, values in changed.items():
        fields[name].update(values)
    path.write_text(json.dumps(fields))
    if sums:
        digests = [hashlib.sha256(text).hexdigest() for text in (before, path.read_bytes())]
        (clean / "SHA256SUMS").write_text((clean / "SHA256SUMS").read_text().replace(*digests))


def test_a_manifest_may_not_lead_to_its_own_folder(raw: Path, tmp_path: Path, transparent: str) -> None:
    clean = sanitized(raw, tmp_path / "clean", transparent)
    for place in (".", "train", "../clean/.hidden", "..", "../clean/train/../."):
        edit(clean, raw={"path": place})
        with pytest.raises(InputError, match="leads to its own folder") as refused:
            begun(clean, denoiser=transparent)
        assert "remove it" in refused.value.remedy
    for place in ("a\0b", "x" * 5000):
        edit(clean, raw={"path": place})
        with pytest.raises(InputError):
            begun(clean, denoiser=transparent)
    assert begun(clean, denoiser=transparent, raw=raw).raw.images == 18


def test_a_denoiser_from_elsewhere_is_named_by_the_user_alone(raw: Path, tmp_path: Path, transparent: str) -> None:
    clean = sanitized(raw, tmp_path / "clean", transparent)
    with pytest.raises(UsageError, match="not bundled") as refused:
        begun(clean)
    assert f"--denoiser {transparent}" in refused.value.remedy
    assert begun(clean, denoiser=transparent).denoiser.id == transparent
    edit(clean, denoiser={"id": "natural"})
    with pytest.raises(InputError, match="not the one that the data were sanitized with"):
        begun(clean)


def test_sanitized_images_other_than_the_manifest_s_are_refused(raw: Path, tmp_path: Path, transparent: str) -> None:
    """A manifest of good data beside other images, too."""
    clean = sanitized(raw, tmp_path / "clean", transparent)
    shutil.copy(clean / "train/red/000.png", clean / "train/red/001.png")
    with pytest.raises(InputError, match="are not those that its"):
        begun(clean, denoiser=transparent)


def test_what_was_edited_is_not_believed(raw: Path, tmp_path: Path, transparent: str) -> None:
    clean = sanitized(raw, tmp_path / "clean", transparent)
    whole = {name: (clean / name).read_bytes() for name in ("dpclean.json", "SHA256SUMS")}
    for changed, sums in (
        ({"noise": {"sigma": 0.1}}, True),  # against the parameters
        ({"noise": {"sigma": 0.1}, "parameters": {"sigma": 0.1}}, False),  # against the checksums
        ({"parameters": {"limit": 5}}, False),
    ):
        edit(clean, sums=sums, **changed)
        with pytest.raises(InputError, match="was edited"):
            begun(clean, sigma=None, denoiser=transparent)
        model = trained(clean, tmp_path / "model", overwrite=True)
        assert "was edited" in json.loads((model / "model.json").read_text())["not_certifiable"][0]
        for name, data in whole.items():
            (clean / name).write_bytes(data)
    assert begun(clean, sigma=None, denoiser=transparent).sigma == "0.25"


@pytest.mark.parametrize(
    "changed",
    [
        {"limit": "5"},
        {"limit": -1},
        {"sample": 0},
        {"limit": 5, "sample": 5},
        {"max_pixels": None},
        {"alpha_policy": 1},
        {"follow_links": "yes"},
    ],
)
def test_a_manifest_whose_parameters_are_none_is_refused(
    raw: Path, tmp_path: Path, transparent: str, changed: dict[str, Any]
) -> None:
    clean = sanitized(raw, tmp_path / "clean", transparent)
    edit(clean, parameters=changed)
    with pytest.raises(InputError, match="is no manifest"):
        begun(clean, denoiser=transparent)


def test_of_a_sample_the_same_sample_is_certified(raw: Path, tmp_path: Path, transparent: str) -> None:
    clean = sanitized(raw, tmp_path / "clean", transparent, sample=18)
    asked = CertifyOptions(**FEW, denoiser=transparent)
    source = find_source(clean, asked)
    certified = read_certified_data(source, asked)
    used = {f"{path.parent.parent.name}/{path.parent.name}/{path.name}" for path in clean.glob("*/*/*.png")}
    assert {*certified.train.names, *certified.points.names} == used and len(used) == 18
    terms = make_parameters(certified, asked)
    assert terms.decode.sample == terms.raw.listed == 18 and "sample 18" in source.taken
    assert begun(raw, denoiser=transparent).decode.sample is UNSET
    with pytest.raises(UsageError, match="--limit is that of the sanitized data"):
        begun(clean, denoiser=transparent, limit=18)
    (raw / "train/red/900.png").write_bytes((raw / "train/red/000.png").read_bytes())
    with pytest.raises(InputError, match="are not those that were sanitized"):  # another sample of other data
        begun(clean, denoiser=transparent)


def test_what_is_not_what_was_sanitized_is_named(raw: Path, tmp_path: Path, transparent: str) -> None:
    clean = sanitized(raw, tmp_path / "clean", transparent)
    (raw / "train/red/000.png").write_bytes((raw / "train/red/001.png").read_bytes())
    (raw / "train/green/000.png").write_bytes(b"")
    said = r"sanitized \('train/green/000.png', 'train/red/000.png'; 1 empty now\): their digest"
    with pytest.raises(InputError, match=said):
        begun(clean, denoiser=transparent)


def test_images_that_are_in_no_run_are_named(raw: Path, transparent: str) -> None:
    (raw / "train" / "red" / "000.png").rename(raw / "train" / "strays.png")
    (raw / "train" / "red" / "001.png").write_bytes(b"")
    asked = CertifyOptions(**FEW, sigma="0.25", denoiser=transparent)
    assert read_certified_data(find_source(raw, asked), asked).remarks == [
        "images that cannot be used and are left out: 1 (1 empty: 'train/red/001.png')",
        "training images without a class, left aside: 1 ('train/strays.png')",
    ]
    Image.new("RGB", (300, 300)).save(raw / "train" / "red" / "vast.png")
    said = read_certified_data(find_source(raw, asked), asked).remarks[-1]
    assert said.startswith("'train/red/vast.png' has 96 % of all pixels")


def test_one_image_of_another_size_decides_nothing_for_the_others(raw: Path, transparent: str) -> None:
    Image.new("RGB", (5, 7)).save(raw / "test" / "blue" / "000.png")  # the first of the points
    terms = begun(raw, denoiser=transparent)
    assert (terms.size, terms.recipe["name"]) == (16, "tiny")
    Image.new("RGB", (5, 7)).save(raw / "train" / "blue" / "000.png")
    terms = begun(raw, denoiser=transparent)
    assert (terms.size, terms.recipe["name"]) == (16, "tiny@16")
    with pytest.raises(InputError, match="the images are not squares of one size: 5 x 7, 16 x 16") as refused:
        begun(raw, denoiser=transparent, recipe="tiny")
    assert "--recipe tiny@32" in refused.value.remedy


def test_a_colour_image_is_left_out_where_the_denoiser_takes_grey_ones(tmp_path: Path) -> None:
    """By itself, and in every command alike: the others are sanitized and certified."""
    grey, raw = str(make_denoiser(tmp_path / "grey", in_channels=1, out_channels=1)), tmp_path / "raw"
    for name in ("blue", "red"):
        (raw / name).mkdir(parents=True)
        for number in range(3):
            Image.fromarray(colour_image(0, number)).convert("L").save(raw / name / f"{number}.png")
    Image.fromarray(colour_image(0, 0)).save(raw / "blue" / "1.png")
    clean = sanitized(raw, tmp_path / "clean", grey)
    for path, options in ((raw, {"sigma": "0.25"}), (clean, {})):
        asked = CertifyOptions(**FEW, denoiser=grey, holdout=0.5, **options)
        certified = read_certified_data(find_source(path, asked), asked)
        assert len(certified.train) + len(certified.points) == 5
        assert "(1 colour: 'blue/1.png')" in certified.remarks[-1]
    assert [path.name for path in sorted((clean / "blue").iterdir())] == ["0.png", "2.png"]


def test_raw_data_are_read_with_the_limits_that_they_were_sanitized_with(
    raw: Path, tmp_path: Path, transparent: str
) -> None:
    """An image that takes longer, or more memory, than usual would be missing."""
    limits = {"decode_timeout": 500.0, "decode_memory": 3 << 30}
    clean = sanitized(raw, tmp_path / "clean", transparent, **limits)
    source = find_source(clean, CertifyOptions(**FEW, denoiser=transparent))
    for read in (source.data_options, data_options(manifests.read(clean))):
        assert {name: getattr(read, name) for name in limits} == limits
    assert "decode-timeout 500, decode-memory 3221225472" in source.taken


def test_what_a_manifest_decides_is_said_first(
    raw: Path, tmp_path: Path, transparent: str, capsys: pytest.CaptureFixture[str]
) -> None:
    clean = sanitized(raw, tmp_path / "clean", transparent, limit=26)
    said: list[str] = []
    with pytest.raises(InputError):  # the data are read after that, and are not what they were
        shutil.rmtree(raw / "train")
        certify(clean, tmp_path / "out", denoiser=transparent, say=said.append, **FEW)
    assert len(said) == 1 and str(raw) in said[0] and "limit 26" in said[0] and "sigma is 0.25" in said[0]
    command = ["certify", str(clean), "--out", str(tmp_path / "out"), "--denoiser", transparent, "--runs=6"]
    for more in ([], ["--dry-run"]):
        assert run([*command, *more, "--bound=union", "--alpha=0.1", "--device=cpu"]) == 3
        assert f"raw ones in {str(raw)!r}" in capsys.readouterr().err


# -- a class that has lost its images


def test_a_class_that_lost_all_its_images_is_named(raw: Path, tmp_path: Path, transparent: str) -> None:
    for path in (raw / "train/green").iterdir():
        path.write_bytes(b"not an image")
    clean = sanitized(raw, tmp_path / "clean", transparent)
    for refused in (
        lambda: trained(clean, tmp_path / "model"),
        lambda: begun(clean, denoiser=transparent),
        lambda: begun(raw, denoiser=transparent),
    ):
        with pytest.raises(InputError, match="classes without a training image: 'green'"):
            refused()
