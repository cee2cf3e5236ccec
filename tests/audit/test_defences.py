"""What each defence does to images, and what to the choice of them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from dpclean.audit.attacks.perturbation import stacked
from dpclean.audit.attacks.surrogate import Surrogate
from dpclean.audit.defences import DEFENCES, find_defences, make_defences
from dpclean.audit.defences.adversarial_training import Changed
from dpclean.audit.defences.command import Filter
from dpclean.audit.defences.deep_knn import DeepKnn
from dpclean.audit.defences.defence import Filtered, Setting
from dpclean.audit.defences.dp_sgd import PrivateLearner
from dpclean.audit.defences.friends import BOUND, RANDOM, Friends
from dpclean.audit.defences.sanitized import Sanitized
from dpclean.audit.defences.spectral import Spectral
from dpclean.audit.victims.frozen import Frozen
from dpclean.audit.victims.scratch import Scratch
from dpclean.data.dataset import read_images
from dpclean.errors import ConflictError, InputError, SetupError, UsageError
from dpclean.train.extractor import find_extractor
from dpclean.train.recipes import find_recipe

IMAGES = list(np.random.default_rng(0).integers(60, 196, (3, 16, 16, 3), np.uint8))


def test_every_defence_is_a_function_of_image_index_and_run(denoiser: Path) -> None:
    setting = Setting([0.1], str(denoiser), "one-step", "cpu", bytes(32), 3, 2)
    for kind in DEFENCES.values():
        if kind.together or kind.takes:
            continue
        (defence,) = kind.made(setting, "")
        whole = defence.apply(IMAGES, indices=[5, 6, 7], run=1)
        (alone,) = defence.apply(IMAGES[1:2], indices=[6], run=1)
        assert np.abs(whole[1].astype(int) - alone).max() <= 1  # batches of other shapes round otherwise
        elsewhere = defence.apply(IMAGES[1:2], indices=[6], run=2)[0]
        assert (defence.sigma is not None) == bool((elsewhere != alone).any())
        assert defence.changes == bool((np.stack(whole) != IMAGES).any())
        change = np.std(np.subtract(whole, IMAGES, dtype=float))
        if defence.sigma is not None:
            assert change == pytest.approx(25.5, rel=0.1)  # this denoiser leaves the noise where it is
        grey = defence.apply([IMAGES[0][:, :, :1]], indices=[0], run=0)[0]
        assert grey.shape == (16, 16, 1) and grey.dtype == np.uint8


def test_jpeg_changes_little(denoiser: Path) -> None:
    (jpeg,) = DEFENCES["jpeg-75"].made(Setting([], str(denoiser), "one-step", "cpu", bytes(32), 3, 2), "")
    smooth = np.add.outer(np.arange(32), np.arange(32)).astype(np.uint8)[:, :, None].repeat(3, 2)
    (found,) = jpeg.apply([smooth], indices=[0], run=0)
    assert 0 < np.abs(found.astype(int) - smooth).max() < 12


def test_neighbours_of_another_label_throw_an_image_out() -> None:
    random = np.random.default_rng(0)
    rows = np.concatenate([random.normal((4, 0), 0.3, (20, 2)), random.normal((0, 4), 0.3, (20, 2))]).astype(np.float32)
    labels = np.repeat([0, 1], 20)
    labels[3] = 1  # a stranger among the others
    assert np.flatnonzero(~DeepKnn().kept(rows, labels)).tolist() == [3]


def test_images_along_one_direction_of_their_class_are_thrown_out() -> None:
    random = np.random.default_rng(0)
    rows = random.normal(0, 0.3, (50, 8)).astype(np.float32)
    rows[::2] += 5  # the classes are far apart, which is no reason
    rows[[4, 10], 3] += 4
    rows[4, 0] += 3
    labels = np.tile([0, 1], 25)
    left = np.flatnonzero(~Spectral(1).kept(rows, labels))
    assert {4, 10} <= set(left) and np.bincount(labels[left]).tolist() == [2, 2]  # 1.5 images of each
    assert (~Spectral(1000).kept(rows, labels)).sum() == 24  # at most half of each


def test_a_private_head_learns_what_no_single_image_decides() -> None:
    pytest.importorskip("opacus", reason="the extra 'opacus' is not installed")
    random = np.random.default_rng(0)
    labels = np.tile([0, 1], 150)
    rows = random.normal(np.eye(2)[labels] * 4, 1.0).astype(np.float32)

    learned = PrivateLearner(8).fit(rows, labels, 2)
    assert (learned.predict(rows) == labels).mean() > 0.9
    again, other = (PrivateLearner(8).fit(rows, labels, 2, seed).weights for seed in (0, 1))
    assert (learned.weights == again).all() and (learned.weights != other).any()
    with pytest.raises(UsageError, match="takes an epsilon above 0"):
        find_defences(["dp-sgd:0"])


def test_a_package_that_is_missing_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opacus", None)  # as if it were not installed
    with pytest.raises(SetupError, match="needs Opacus") as refused:
        find_defences(["dp-sgd:8"])
    assert refused.value.remedy == "pip install 'dpclean[opacus]'"


def test_training_against_an_attack_changes_images_within_its_bound() -> None:
    recipe = find_recipe("tiny")
    mean, std = (torch.tensor(numbers).view(1, 3, 1, 1) for numbers in (recipe.mean, recipe.std))
    levels = torch.from_numpy(np.stack(IMAGES)).permute(0, 3, 1, 2).float()
    levels[0, 0, 0, 0] = 255.0
    inputs, weights = (levels / 255 - mean) / std, torch.randn(levels.shape[1:])

    def logits(given: torch.Tensor) -> torch.Tensor:
        score = (given * weights).sum((1, 2, 3))
        return torch.stack([score, -score], dim=1)

    truth = torch.zeros(3, dtype=torch.int64)
    with torch.random.fork_rng():
        found = Changed(recipe, 8, torch.device("cpu"))(inputs, truth, logits)
    change = 255 * ((found * std + mean) - levels / 255)
    assert change.abs().max() == pytest.approx(8, abs=1e-3) and (found * std + mean).max() <= 1 + 1e-6
    assert (change.sign() == -weights.sign()).float().mean() > 0.99  # downhill, but for what white cannot exceed
    assert not found.requires_grad


def test_a_recipe_learns_what_is_shown_to_it_anew(raw: Path) -> None:
    """Under an attack, and with noise in every epoch: otherwise than it does plainly, and each the same again."""
    data = read_images(raw, workers=1)
    recipe = replace(find_recipe("tiny"), epochs=1, least_steps=2)
    victim = Scratch(recipe, 3, 16, torch.device("cpu"))
    seen = victim.read(data.pixels)
    setting = Setting([], "natural", "one-step", "cpu", bytes(32), 3, 2, victim)
    (hardened,) = find_defences(["adversarial-training:8"])[1].made(setting)[0].learners(data)
    (noised,) = find_defences(["friends"])[1].made(setting)[0].learners(data)
    whole = [learner.fit(seen, data.labels, 3).weights for learner in (victim.training, hardened, hardened, noised)]
    plain, first, again, other = ({name: one.float() for name, one in weights.items()} for weights in whole)
    assert all(torch.equal(first[name], again[name]) for name in first)
    for changed in (first, other):
        assert any(not torch.equal(changed[name], plain[name]) for name in plain)
    with pytest.raises(UsageError, match="takes a number of grey levels"):
        find_defences(["adversarial-training"])


def test_friendly_noise_is_large_and_leaves_answers_what_they_are(raw: Path, model: Path) -> None:
    data = read_images(raw, workers=1)
    victim = Frozen(find_extractor(str(model), device=torch.device("cpu")))
    (friends,) = find_defences(["friends"])[1].made(Setting([], "natural", "one-step", "cpu", bytes(32), 3, 2, victim))
    assert isinstance(friends, Friends)
    surrogate = Surrogate(victim, data)

    def answers(images: Sequence[np.ndarray]) -> torch.Tensor:
        return surrogate.scores(stacked(images), []).log_softmax(1)

    blue, red = (np.stack([data.pixels[place] for place in np.flatnonzero(data.labels == label)]) for label in (0, 2))
    undecided = list(((blue.astype(int) + red) // 2).astype(np.uint8))
    friendly = np.stack(friends._friendly(undecided, surrogate, 0, lambda: None)).astype(int)
    sizes = np.abs(friendly - undecided)
    assert sizes.max() == BOUND and sizes.mean() > BOUND / 2
    as_large = undecided + sizes * np.random.default_rng(0).choice([-1, 1], sizes.shape)
    before = answers(undecided)

    def divergence(images: Sequence[np.ndarray]) -> float:
        return float(functional.kl_div(answers(images), before, reduction="batchmean", log_target=True))

    assert divergence(list(friendly)) < 0.5 * divergence(list(as_large))
    whole = friends.filtered(data.pixels, data.labels, data.classes)
    again = friends.filtered(data.pixels, data.labels, data.classes)
    assert whole.kept.all() and (np.stack(whole.images) == np.stack(again.images)).all()
    further = np.abs(np.stack(whole.images).astype(int) - np.stack(data.pixels))
    assert BOUND < further.max() <= BOUND + RANDOM  # the random noise lies on top


def test_no_defence_comes_first_and_once() -> None:
    found = find_defences(["jpeg-75, none", "jpeg-75", COPY, "deep-knn,spectral"])
    assert [one.argument or one.kind.name for one in found] == ["none", "jpeg-75", COPY, "deep-knn", "spectral"]


@pytest.mark.parametrize(
    ("text", "source", "method"),
    [
        ("sanitized", "natural", "one-step"),
        ("sanitized:perceptual", "perceptual", "one-step"),
        ("sanitized:ddim:4", "natural", "ddim:4"),
        ("sanitized:perceptual:sde:20", "perceptual", "sde:20"),
        ("sanitized:./a:b:one-step", "./a:b", "one-step"),
    ],
)
def test_denoiser_and_method_of_a_row_of_its_own(text: str, source: str, method: str) -> None:
    _, asked = find_defences([text])
    (made,) = asked.made(Setting([0.1], "natural", "one-step", "cpu", bytes(32), 3, 2))
    assert isinstance(made, Sanitized)
    assert (made.source, made.method, made.label) == (source, method, f"{text} at 0.1")
    assert list(asked.kind.reads(asked.argument)) == [source][: source != "natural"]
    with pytest.raises(UsageError, match="method ddim takes a number of steps"):
        find_defences(["sanitized:perceptual:ddim"])


COPY = "cp -r {data}/. {out}"
LABELS, NAMES = np.array([0, 1, 0]), ("cat's", "a dog")
CHOOSES = """
(out / "a dog").mkdir()
(data / "a dog/000001.png").rename(out / "a dog/000001.png")
"""
SHRINKS = """
from PIL import Image
(out / "cat's").mkdir()
Image.open(data / "cat's/000002.png").resize((8, 8)).save(out / "cat's/000002.png", "jpeg")
"""


def program(folder: Path, text: str) -> str:
    file = folder / "a filter.py"
    file.write_text(f"import sys\nfrom pathlib import Path\ndata, out = map(Path, sys.argv[1:3])\n{text}")
    return f"{sys.executable} '{file}' {{data}} {{out}}"


def filtered(command: str) -> Filtered:
    return Filter(command).filtered(IMAGES, LABELS, NAMES)


def test_a_filter_of_the_users_own_chooses_and_changes_images(tmp_path: Path) -> None:
    whole = filtered(COPY)
    assert whole.kept.all() and (np.stack(whole.images) == IMAGES).all()
    chosen = filtered(program(tmp_path, CHOOSES))
    assert chosen.kept.tolist() == [False, True, False] and (chosen.images[1] == IMAGES[1]).all()
    changed = filtered(program(tmp_path, SHRINKS))
    assert changed.kept.tolist() == [False, False, True] and changed.images[2].shape == (8, 8, 3)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("no-such-program {data} {out}", "does not start: 'no-such-program': No such file"),
        ("sh -c 'echo it has no model >&2; exit 3' {data} {out}", "left with exit code 3: it has no model"),
        ("sh -c 'kill -9 $$' {data} {out}", "was ended by signal 9"),
        ("true {data} {out}", "left none of the 3 images"),
        ("sh -c 'rm -r $2' - {data} {out}", "has taken the folder {out} away"),
        ("sh -c 'rm -r $2; ln -s $1 $2' - {data} {out}", "has taken the folder {out} away"),
        ("cp -r {data} {out}", "which is none of the images it was given"),
        ('sh -c \'mkdir "$2/a dog"; echo no >"$2/a dog/000001.png"\' - {data} {out}', "is no image that can be read"),
    ],
)
def test_a_filter_that_fails_is_told_in_a_sentence(command: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as refused:
        filtered(command)
    assert repr(command) in refused.value.message


def test_a_filter_is_the_same_program_throughout(tmp_path: Path) -> None:
    asked = Filter(program(tmp_path, CHOOSES))
    asked.filtered(IMAGES, LABELS, NAMES)
    with (tmp_path / "a filter.py").open("a") as file:
        file.write("# another one")
    with pytest.raises(ConflictError, match="the defence is not the program that the job was begun with"):
        asked.filtered(IMAGES, LABELS, NAMES)


def test_two_defences_that_a_table_could_not_tell_apart_are_refused() -> None:
    setting = Setting((0.1, 0.1000001), "natural", "one-step", "cpu", bytes(32), 0, 0)
    with pytest.raises(UsageError, match="two of the defences would both be called 'noised at 0.1'"):
        make_defences(["noised"], setting)


def test_nothing_in_a_command_is_for_a_shell(tmp_path: Path) -> None:
    spied = tmp_path / "spied"
    told = filtered(program(tmp_path, CHOOSES) + f" $(touch {spied}) ; touch {spied} > {spied}")
    assert told.kept.any() and not spied.exists()


@pytest.mark.parametrize("text", ["cp {data}", "cp {out} x", "cp '{data} {out}"])
def test_what_is_no_command_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--defence is"):
        find_defences([text])
