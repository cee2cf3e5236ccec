"""Guided diffusion: what its generator makes, which of that it keeps, what it saves, and what does not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dpclean.audit.attacks import find_attack, guided_diffusion
from dpclean.audit.attacks.attack import Case
from dpclean.audit.attacks.guided_diffusion import GROUPS, WEIGHT, GuidedDiffusion, each_alone
from dpclean.audit.attacks.informed import Informed
from dpclean.audit.attacks.sight import ThroughDenoiser
from dpclean.audit.attacks.surrogate import Surrogate
from dpclean.audit.generator import STEPS, Generator, find_generator
from dpclean.audit.job import audit
from dpclean.audit.victims.frozen import Frozen
from dpclean.audit.victims.scratch import Scratch
from dpclean.data.dataset import Images, read_images
from dpclean.denoise.denoiser import Denoiser
from dpclean.denoise.loading import find_denoiser
from dpclean.errors import DpcleanError, InputError, SetupError, UsageError
from dpclean.train.extractor import find_extractor
from dpclean.train.recipes import find_recipe
from tests.networks import make_denoiser

CPU, EPS, POISONS = torch.device("cpu"), 16, 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random network: what it makes is noise, and depends on the class all the same."""
    return make_denoiser(tmp_path_factory.mktemp("generator") / "unet", sample_size=16, num_class_embeds=3)


@pytest.fixture(scope="module")
def data(raw: Path) -> Images:
    return read_images(raw, workers=1)


@pytest.fixture(scope="module")
def generator(folder: Path, data: Images) -> Generator:
    return find_generator(folder, data, CPU)


@pytest.fixture(scope="module")
def surrogate(data: Images, model: Path) -> Surrogate:
    return Surrogate(Frozen(find_extractor(str(model), device=CPU)), data, seed=5)


@pytest.fixture(scope="module")
def case(data: Images) -> Case:
    """For a red target, poisons of blue."""
    places = np.flatnonzero(data.labels == 0)[:POISONS].tolist()
    target = data.pixels[int(np.flatnonzero(data.labels == 2)[0])]
    return Case([data.pixels[place] for place in places], 0, EPS, target, 2, seed=1, places=places)


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_schedule_of_few_timesteps_is_gone_through_once(tmp_path: Path, data: Images) -> None:
    short = make_denoiser(tmp_path / "short", sample_size=16, num_class_embeds=3)
    told = {"_class_name": "DDPMScheduler", "num_train_timesteps": 6, "prediction_type": "epsilon"}
    (short / "scheduler" / "scheduler_config.json").write_text(json.dumps(told))
    found, steps = find_generator(short, data, CPU), list[None]()
    made = found.sample(0, 1, random=torch.Generator().manual_seed(1), on_step=lambda: steps.append(None))
    assert len(steps) == 6 and made[0].shape == (16, 16, 3)


def test_what_it_predicts_is_finite(tmp_path: Path, data: Images) -> None:
    def burst(model: Any) -> None:
        model.conv_out.weight.fill_(3e38)

    folder = make_denoiser(tmp_path / "burst", prepare=burst, sample_size=16, num_class_embeds=3)
    with pytest.raises(SetupError, match="what it predicts is not finite"):
        find_generator(folder, data, CPU)


def test_without_guidance_it_samples_as_diffusers_does(folder: Path, generator: Generator) -> None:
    from diffusers import DDIMScheduler, UNet2DModel

    network = UNet2DModel.from_pretrained(folder, use_safetensors=True, low_cpu_mem_usage=False)
    schedule = DDIMScheduler(timestep_spacing="trailing")
    schedule.set_timesteps(10)
    x = torch.randn((2, 3, 16, 16), generator=seeded())
    with torch.no_grad():
        for timestep in schedule.timesteps:
            noise = network(x, timestep, class_labels=torch.tensor([2, 2])).sample
            x = schedule.step(noise, timestep, x).prev_sample
    wanted = ((x.clamp(-1, 1) + 1) * 127.5).permute(0, 2, 3, 1).numpy()
    made = np.stack(generator.sample(2, 2, random=seeded(), steps=10))
    assert np.abs(made - wanted).max() <= 0.51
    assert (made != np.stack(generator.sample(1, 2, random=seeded(), steps=10))).any()


def test_guidance_makes_the_objective_smaller_than_the_same_noise_does_without_it(
    generator: Generator, surrogate: Surrogate, case: Case
) -> None:
    objective = find_attack("bullseye-polytope").objective(case, surrogate)

    def loss(images: torch.Tensor) -> torch.Tensor:
        return objective(images, range(len(images)))

    losses = []
    for weight in (0.0, WEIGHT):
        made = generator.sample(0, POISONS, random=seeded(), towards=loss, weight=weight, steps=8)
        levels = torch.from_numpy(np.stack(made)).permute(0, 3, 1, 2).float()
        losses.append(float(loss(levels)))
    assert losses[0] > losses[1]


def test_the_most_potent_are_kept_and_changed_within_eps(
    generator: Generator, surrogate: Surrogate, case: Case
) -> None:
    inner = find_attack("feature-collision")
    attack = GuidedDiffusion(inner, generator)
    most_steps = attack.most_steps(surrogate) // 10
    made = attack.craft(case, surrogate, most_steps=most_steps, on_step=lambda: None)
    assert made.bases is not None and len(made.bases) == len(made.pixels) == POISONS
    changes = np.abs(np.subtract(made.pixels, made.bases, dtype=int))
    assert 0 < changes.max() <= EPS
    objective, random, found = inner.objective(case, surrogate), seeded(case.seed), list[tuple[float, bytes]]()
    for _ in range(GROUPS):
        group = generator.sample(
            0,
            POISONS,
            random=random,
            towards=lambda levels: objective(levels, range(POISONS)),
            weight=WEIGHT,
            steps=STEPS // 10,
        )
        other = Case(group, 0, EPS, case.target, 2, seed=1, places=case.places)
        poisons = inner.craft(other, surrogate, most_steps=6, on_step=lambda: None).pixels
        found += zip(each_alone(poisons, objective, CPU), (base.tobytes() for base in group), strict=True)
    assert len(found) == GROUPS * POISONS
    assert {base.tobytes() for base in made.bases} == {base for _, base in sorted(found)[:POISONS]}


def test_who_knows_the_defence_guides_through_it(
    generator: Generator, data: Images, model: Path, denoiser: Path, case: Case
) -> None:
    """The denoiser leaves the noise where it is, so what he wants is another thing than without it."""
    sight = ThroughDenoiser(Denoiser(find_denoiser(str(denoiser)), 0.2, device="cpu"), bytes(32))
    informed = Informed(Frozen(find_extractor(str(model), device=CPU)), data, sight, seed=5)
    attack = GuidedDiffusion(find_attack("bullseye-polytope"), generator)
    blind = Surrogate(Frozen(informed.extractor), data, seed=5)
    made = [attack.craft(case, one, most_steps=9, on_step=lambda: None) for one in (informed, blind)]
    for one in made:
        assert one.bases is not None and np.abs(np.subtract(one.pixels, one.bases, dtype=int)).max() <= EPS
    assert not np.array_equal(np.array(made[0].bases), np.array(made[1].bases))


def test_it_follows_attacks_on_all_weights(generator: Generator, data: Images, case: Case) -> None:
    surrogate = Surrogate(Scratch(find_recipe("tiny"), len(data.classes), 16, CPU).sketch(), data, seed=5)
    for name in ("gradient-matching", "sleeper-agent"):
        attack = find_attack(f"guided-diffusion:{name}", "scratch")
        assert isinstance(attack, GuidedDiffusion) and attack.has_trigger == (name == "sleeper-agent")
        made = attack.with_generator(generator).craft(case, surrogate, most_steps=9, on_step=lambda: None)
        assert made.bases is not None and np.abs(np.subtract(made.pixels, made.bases, dtype=int)).max() <= EPS
        assert (made.trigger is not None) == attack.has_trigger


def test_an_audit_saves_what_it_made_and_takes_it_back(
    folder: Path, raw: Path, test_images: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guided_diffusion, "STEPS", 5)
    monkeypatch.setattr(Surrogate, "most_steps", 6)
    given: dict[str, Any] = {"extractor": model, "test": test_images, "defence": "none"}
    given |= {"threads": 1, "workers": 1, "device": "cpu", "targets": 1}
    out = tmp_path / "audit"
    audit(raw, out, attack="guided-diffusion", generator=folder, eps=EPS, poisons=POISONS, **given)
    report = json.loads((out / "audit.json").read_bytes())
    assert report["attack"] == "guided-diffusion:bullseye-polytope"
    assert "generator_weights" in report["parameters"]
    assert "whole images of RAW are replaced" in (out / "report.html").read_text("utf-8")
    saved = out / "poisons" / "0001"
    told = json.loads((saved / "poisons.json").read_bytes())
    assert "generator_weights" in told["settings"] and len(told["poisons"]) == POISONS
    for poison in told["poisons"]:
        before, after = (np.array(Image.open(saved / poison[kind])).astype(int) for kind in ("base", "file"))
        assert np.abs(after - before).max() <= EPS
        assert np.abs(after - np.array(Image.open(raw / poison["name"]))).max() > EPS
    audit(raw, tmp_path / "again", poisons_from=saved, **given)
    again = json.loads((tmp_path / "again" / "audit.json").read_bytes())
    assert again["trials"][0]["verdicts"] == report["trials"][0]["verdicts"]


def test_what_does_not_fit_is_refused(
    folder: Path, raw: Path, test_images: Path, model: Path, data: Images, tmp_path: Path
) -> None:
    def refused(kind: type[DpcleanError], words: str, **changed: Any) -> None:
        asked = {"attack": "guided-diffusion", "generator": folder, "extractor": model, "test": test_images}
        with pytest.raises(kind, match=words):
            audit(raw, tmp_path / "no", workers=1, poisons=POISONS, targets=1, **{**asked, **changed})

    def made(name: str, **config: Any) -> Path:
        return make_denoiser(tmp_path / name, **{"sample_size": 16, "num_class_embeds": 3, **config})

    def unfit(kind: type[DpcleanError], words: str, generator: Path) -> None:
        with pytest.raises(kind, match=words):
            find_generator(generator, data, CPU)

    refused(UsageError, "missing option '--generator'", generator=None)
    refused(UsageError, "takes no generator", attack="bullseye-polytope")
    refused(UsageError, "--generator", poisons_from=tmp_path)
    refused(UsageError, "'badnets' has none to follow", attack="guided-diffusion:badnets")
    refused(UsageError, "'x' has none to follow", attack="guided-diffusion:x")
    refused(UsageError, "gradient-matching works by what all weights", attack="guided-diffusion:gradient-matching")
    refused(SetupError, "is no folder", generator=tmp_path / "missing")
    refused(SetupError, "^generator .* has no config.json", generator=raw)
    unfit(SetupError, "takes no class labels", made("unconditional", num_class_embeds=None))
    unfit(SetupError, "knows 10 classes .*, and there are 3", made("ten", num_class_embeds=10))
    unfit(InputError, "makes images of 32 x 32 x 3, and those of RAW are of 16 x 16 x 3", made("large", sample_size=32))
    unfit(InputError, "16 x 16 x 1, and", made("grey", in_channels=1, out_channels=1))
    unfit(SetupError, "it makes 5 x 16 x 16 of 3 x 16 x 16", made("strange", out_channels=5))
    assert not (tmp_path / "no").exists()
