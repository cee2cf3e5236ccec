"""The command line as a shell sees it: exit codes, standard output and error, environment, configuration."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dpclean import cli
from dpclean.cli import run
from tests.networks import make_transparent


@pytest.fixture(scope="module")
def denoiser(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_transparent(tmp_path_factory.mktemp("denoiser") / "transparent"))


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    for name in ("cat", "dog"):
        (tmp_path / "raw" / name).mkdir(parents=True)
        pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "raw" / name / "1.png")
    return tmp_path / "raw"


def shell(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dpclean", *arguments], capture_output=True, text=True, env={**os.environ, **environment}
    )


def test_a_first_run_tells_what_it_did_and_what_to_type_next(
    raw: Path, denoiser: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = raw.parent / "clean"
    assert run(["sanitize", str(raw), "--sigma", "0.25", "--out", str(out), "--denoiser", denoiser]) == 0
    said = capsys.readouterr().out
    assert "Sanitized 2 images" in said and "Next: " in said
    assert run(["sanitize", str(raw), "--sigma", "0.25", "--out", str(out), "--denoiser", denoiser]) == 0
    assert "already complete" in capsys.readouterr().out


def test_json_is_the_only_thing_on_standard_output(raw: Path, denoiser: str) -> None:
    (raw / "cat" / "broken.png").write_bytes(b"")
    out = str(raw.parent / "clean")
    done = shell("sanitize", str(raw), "--sigma", "0.25", "--out", out, "--denoiser", denoiser, "--json", "--quiet")
    result = json.loads(done.stdout)
    assert done.returncode == 0 and done.stderr == ""
    assert result["images"] == 2 and result["quarantined"] == {"empty": 1} and result["command"] == "sanitize"
    listed = json.loads(shell("quarantine", out, "--json").stdout)
    assert listed["quarantined"] == [{"name": "cat/broken.png", "reason": "empty"}]
    assert shell("quarantine", out).stdout == "empty\tcat/broken.png\n"


REFUSALS = [
    (["--sigma", "-1"], 2, "did you mean 1?"),
    (["--sigma", "0,25"], 2, "did you mean 0.25?"),
    (["--sigma", "25%"], 2, "did you mean 0.25?"),
    (["--sigma", "64"], 2, "did you mean 0.251?"),
    (["--sigma", "nan"], 2, "0 to 4"),
    (["--sigma", "1e9"], 2, "0 to 4"),
    (["--sigma", "0.0001"], 2, "between"),
    (["--sigma", "0.25", "--denoiser", "nothing-of-the-kind"], 4, "neither bundled"),
    (["--sigma", "0.25", "--device", "cuda:99"], 4, "doctor"),
    (["--sigma", "0.25", "--max-bad", "few"], 2, "percentage"),
    (["--sigma", "0.25", "--max-pixels", "many"], 2, "size"),
    (["--sigma", "0.25", "--limit", "all"], 2, "limit must be a number"),
    (["--sigma", "0.25", "--sample", "0"], 2, "sample must be a number"),
    (["--sigma", "0.25", "--sample", "3", "--limit", "3"], 2, "--limit takes the first inputs, --sample some of"),
    (["--sigma", "0.25", "--format", "jpeg"], 2, "png"),
    (["--sigma", "0.25", "--no-such-option"], 2, "--help"),
    ([], 2, "sigma"),
]


@pytest.mark.parametrize(("options", "code", "words"), REFUSALS, ids=[" ".join(r[0]) or "no sigma" for r in REFUSALS])
def test_a_refusal_is_two_sentences_an_exit_code_and_no_output(
    raw: Path, denoiser: str, options: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if "--denoiser" not in options:
        options = [*options, "--denoiser", denoiser]
    assert run(["sanitize", str(raw), "--out", str(raw.parent / "clean"), *options]) == code
    said = capsys.readouterr()
    lines = said.err.splitlines()
    assert len(lines) == 2 and lines[0].startswith("dpclean: error: ") and lines[1].startswith("hint: ")
    assert words in said.err and said.out == ""
    assert [p.name for p in raw.parent.iterdir()] == ["raw"]


def test_without_a_command_the_help_is_shown() -> None:
    done = subprocess.run([sys.executable, "-m", "dpclean"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: dpclean") and "  certify " in done.stdout


def test_a_group_without_a_command_is_a_refusal(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["denoiser"]) == 2
    assert (
        capsys.readouterr().err
        == "dpclean: error: missing command\nhint: 'dpclean denoiser --help' shows what it takes\n"
    )


def test_with_json_a_refusal_is_an_object(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["sanitize", str(raw), "--sigma", "5", "--out", str(raw.parent / "clean"), "--json"]) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert error.keys() == {"code", "exit", "message", "remedy"} and error["exit"] == 2 and error["code"] == "usage"


def test_missing_raw_out_inside_raw_and_out_not_empty_have_their_codes(raw: Path, denoiser: str) -> None:
    (raw.parent / "full").mkdir()
    (raw.parent / "full" / "x").write_text("")
    common = ["--sigma", "0.25", "--denoiser", denoiser]
    assert run(["sanitize", str(raw / "nowhere"), "--out", str(raw.parent / "clean"), *common]) == 3
    assert run(["sanitize", str(raw), "--out", str(raw / "clean"), *common]) == 5
    assert run(["sanitize", str(raw), "--out", str(raw.parent / "full"), *common]) == 5
    assert run(["quarantine", str(raw)]) == 3


def test_hostile_names_do_not_reach_the_terminal_unescaped(
    raw: Path, denoiser: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (raw / "cat" / "\x1b[31m\u202egnp.png").write_bytes(b"")
    out = str(raw.parent / "clean")
    run(["sanitize", str(raw), "--sigma", "0.25", "--out", out, "--denoiser", denoiser])
    capsys.readouterr()
    run(["quarantine", out])
    said = capsys.readouterr().out
    assert "\x1b" not in said and "\u202e" not in said and "x1b" in said


def test_command_line_wins_over_environment_over_file(
    raw: Path, denoiser: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = raw.parent / "dpclean.toml"
    file.write_text(f'[sanitize]\nsigma = 0.1\nlimit = 1\njson = true\nquiet = true\ndenoiser = "{denoiser}"\n')

    def sigma(name: str, *options: str) -> float:
        assert run(["sanitize", str(raw), "--out", str(raw.parent / name), "--config", str(file), *options]) == 0
        result = json.loads(capsys.readouterr().out)
        assert result["images"] == 1
        return float(result["sigma"])

    assert sigma("from_file") == 0.1
    monkeypatch.setenv("DPCLEAN_SANITIZE_SIGMA", "0.2")
    assert sigma("from_environment") == 0.2
    assert sigma("from_command_line", "--sigma", "0.3") == 0.3


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[sanitize]\nsigam = 1", "sigam"),
        ("[sanitize]\nlimit = 'all'", "limit"),
        ("sigma =", "TOML"),
        ("[sanitize]\nsigma = '9'", "sigma"),
    ],
)
def test_a_bad_configuration_names_the_file_and_the_key(
    raw: Path, content: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = raw.parent / "bad.toml"
    file.write_text(content)
    assert run(["sanitize", str(raw), "--out", str(raw.parent / "clean"), "--sigma", "0.1", "--config", str(file)]) == 2
    said = capsys.readouterr().err
    assert "bad.toml" in said and words in said


def test_an_environment_variable_that_does_not_parse_is_named(
    raw: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DPCLEAN_SANITIZE_LIMIT", "some")
    assert run(["sanitize", str(raw), "--sigma", "0.1", "--out", str(raw.parent / "clean")]) == 2
    assert "limit" in capsys.readouterr().err.lower()


def test_a_dry_run_writes_nothing(raw: Path, denoiser: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--sigma", "0.25", "--denoiser", denoiser, "--dry-run"]
    assert run(["sanitize", str(raw), "--out", str(raw.parent / "clean"), *options]) == 0
    assert "Would sanitize 2 inputs" in capsys.readouterr().out
    assert [p.name for p in raw.parent.iterdir()] == ["raw"]


def test_help_version_and_usual_mistakes_need_no_large_import() -> None:
    code = (
        "import sys; from dpclean.cli import run; code = run({}); assert code == {};"
        " assert not {{'torch', 'numpy', 'pydantic'}} & set(sys.modules)"
    )
    told = (["--help"], ["--version"], ["sanitize", "--help"], ["sanitize", "--help", "--sigma", "x"])
    mistakes = (["sanitise"], ["sanitize"], ["sanitize", "--sgima", "1"], ["sanitize", "raw", "--sigma", "0,25"])
    number = ["sanitize", "raw", "--out", "clean", "--sigma", "0.25", "--limit", "all"]
    choice = ["certify", "clean", "--bound", "best"]
    for expected, commands in ((0, told), (2, (*mistakes, number, choice))):
        for arguments in commands:
            command = [sys.executable, "-c", code.format(arguments, expected)]
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, (arguments, done.stderr)


def test_an_installed_completion_completes() -> None:
    # asked for by name, as an installed completion does it: --show-completion looks at the shell that runs the test
    assert "complete" in shell(_DPCLEAN_COMPLETE="source_bash").stdout


@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
def test_output_that_nobody_reads_is_no_error_of_ours(raw: Path, denoiser: str, unbuffered: str) -> None:
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered, "TMPDIR": str(raw.parent)}
    finished = ["sanitize", str(raw), "--sigma", "0.25", "--out", str(raw.parent / "clean"), "--denoiser", denoiser]
    assert run([*finished, "--quiet"]) == 0
    for arguments, code in ((["--help"], 141), ([*finished, "--json"], 141), (["sanitize", "--json"], 2)):
        reader, writer = os.pipe()
        os.close(reader)
        command = [sys.executable, "-m", "dpclean", *arguments]
        done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, env=environment)
        os.close(writer)
        assert (done.returncode, done.stderr) == (code, ""), arguments
    assert not list(raw.parent.glob("dpclean-error-*"))


def test_output_to_a_full_disk_is_refused_and_to_a_closed_one_is_not() -> None:
    def shown(redirected: str) -> tuple[int, str]:
        done = subprocess.run(
            [
                "bash",
                "-c",
                f'exec "$@" {redirected}',
                "-",
                sys.executable,
                "-m",
                "dpclean",
                "denoiser",
                "list",
                "--json",
            ],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": ""},
        )
        return done.returncode, done.stderr

    assert shown("> /dev/full") == (4, "")
    assert shown(">&-") == (0, "")


def test_doctor_and_denoiser_list_tell_what_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    run(["doctor", "--json"])
    examined = json.loads(capsys.readouterr().out)
    assert examined["command"] == "doctor" and examined["status"] in ("ok", "warn", "fail")
    assert run(["denoiser", "list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["denoisers"]
    assert [row["id"] for row in listed] == ["natural", "perceptual"]
    assert len({row["weights"] for row in listed}) == 2 and len(listed[0]["weights"]) == 64


BEYOND = "1" + "0" * 20
REFUSED_AT_ONCE = [
    *[["sanitize", "raw", "--sigma", "0.25", "--out", "clean", option, BEYOND]
      for option in ("--limit", "--sample", "--batch-size", "--workers", "--decode-timeout", "--decode-memory",
                     "--max-pixels")],
    *[["sanitize", "raw", "--sigma", "0.25", "--out", "clean", "--decode-timeout", value]
      for value in ("inf", "nan", "1e10", "0", "-1")],
    ["sanitize", "raw", "--sigma", "1e-9", "--out", "clean"],
    ["sanitize", "raw", "--sigma", "1e-300", "--out", "clean"],
    ["sanitize", "~nobody-of-that-name/raw", "--sigma", "0.25", "--out", "clean"],
    ["sanitize", "raw", "--sigma", "0.25", "--out", "~nobody-of-that-name/clean"],
    ["sanitize", "raw", "--sigma", "0.25", "--out", "clean", "--denoiser", "~nobody-of-that-name/denoiser"],
    ["sanitize", "raw", "--sigma", "0.25", "--out", "clean", "--denoiser", "d" * 5000],
    ["sanitize", "/" + "r" * 5000, "--sigma", "0.25", "--out", "clean"],
    ["sanitize", "raw", "--sigma", "0.25", "--out", "o/" * 2500 + "clean"],
    ["sanitize", "raw", "--sigma", "0.25", "--out", "n" * 240],
    ["sanitize", "raw", "--sigma", "0.25", "--out", "n" * 256],
    *[["train", "raw", "--out", "model", option, BEYOND] for option in ("--warm-epochs", "--workers")],
    ["train", "raw", "--out", "model", "--init", "~nobody-of-that-name/model"],
    *[["certify", "raw", "--sigma", "0.25", option, BEYOND]
      for option in ("--limit", "--batch-size", "--workers", "--run-timeout", "--runs")],
    ["certify", "--votes", "v.safetensors", "--classes", BEYOND, "--sigma", "0.25"],
    *[["denoiser", "fit", "raw", "--out", "ours", option, BEYOND]
      for option in ("--minutes", "--steps", "--batch-size", "--seed", "--workers")],
    *[["denoiser", "fit", "raw", "--out", "ours", "--minutes", value] for value in ("nan", "inf", "-1")],
    *[["denoiser", "eval", "natural", "raw", option, BEYOND] for option in ("--limit", "--workers")],
    ["denoiser", "eval", "natural", "raw", "--sigmas", "1e-9"],
    ["denoiser", "eval", "natural", "raw", "--sigmas", "0.1," * 5000 + "0.1"],
    *[["plan", "--radius", "0.25", "--sigma", "0.25", option, BEYOND]
      for option in ("--points", "--workers", "--seconds-per-run", "--image-bytes", "--image-values")],
    ["plan", "--radius", "0.25", "--sigma", "5"],
    ["train", "raw", "--out", "model", "--recipe", "tiny@" + "9" * 5000],
    ["audit", "raw", "--out", "audit", "--victim", "tiny@" + "9" * 5000],
    ["predict", "model", "raw", "--smooth", "--sigma", "0.25", "--local-smoothing", "9" * 5000 + ":0.1"],
]  # fmt: skip


@pytest.mark.parametrize("arguments", REFUSED_AT_ONCE, ids=lambda arguments: " ".join(arguments)[:60])
def test_what_is_out_of_any_range_is_refused_before_any_work(
    arguments: list[str], raw: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(raw.parent)
    assert run(arguments) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("Note: ")]
    assert len(said) == 2 and said[1].startswith("hint: ")
    assert [p.name for p in raw.parent.iterdir()] == ["raw"]


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_configuration_that_is_no_file_is_refused(raw: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = raw.parent / "options.toml"
    os.mkfifo(file) if kind == "pipe" else file.symlink_to("/dev/zero")
    assert run(["doctor", "--config", str(file)]) == 2
    assert "not a regular file" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["on", "1", "True", "yes"])
@pytest.mark.parametrize("name", ["DPCLEAN_JSON", "DPCLEAN_PLAN_JSON"])
@pytest.mark.parametrize("mistake", [["--sgima", "1"], ["--radius", "0.25"], ["--radius", "x", "--sigma", "0.25"]])
def test_a_variable_that_asks_for_json_makes_errors_json(
    name: str, value: str, mistake: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, value)
    assert run(["plan", *mistake]) == 2
    said = capsys.readouterr()
    assert json.loads(said.out)["error"]["code"] == "usage" and said.err == ""


def test_a_file_that_asks_for_json_makes_errors_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.toml").write_text("[plan]\njson = true\nsigma = '0.25'\n")
    for mistake in ([], ["--radius", "0"], ["--radius", "0.25", "--points", BEYOND]):
        assert run(["plan", "--config", str(tmp_path / "c.toml"), *mistake]) == 2
        assert json.loads(capsys.readouterr().out)["error"]["code"] == "usage"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("limit = true", "limit is no switch"),
        ("report = 1", "report is a switch"),
        ("report = 'yes'", "report is a switch"),
        ("limit = [1, 2]", "one text or number"),
        ("limit = 2020-01-01", "one text or number"),
        ("limit.a = 1", "one text or number"),
        ("format = ['png']", "one text or number"),
        ("limit = " + "[" * 100000 + "]" * 100000, "TOML"),
        ("limit = " + "9" * 5000, "TOML"),
    ],
    ids=lambda text: text[:20],
)
def test_a_value_of_another_kind_is_refused(
    raw: Path, content: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = raw.parent / "bad.toml"
    file.write_text(f"[sanitize]\n{content}\n")
    assert run(["sanitize", str(raw), "--out", str(raw.parent / "clean"), "--sigma", "0.1", "--config", str(file)]) == 2
    said = capsys.readouterr().err
    assert "bad.toml" in said and words in said and len(said.splitlines()) == 2


ALL_COMMANDS = [
    *("sanitize", "train", "predict", "features", "certify", "verify", "plan", "audit", "quarantine", "doctor"),
    *("denoiser list", "denoiser fit", "denoiser eval"),
]


@pytest.mark.parametrize("name", ALL_COMMANDS)
def test_every_command_takes_the_common_options_and_a_table_of_its_own(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*name.split(), "--help"]) == 0
    told = capsys.readouterr().out
    for part in ("--json", "--quiet", "--config", f"[{name.replace(' ', '.')}]"):
        assert part in told
    named = re.search(r"named as (\S+) is for (--[a-z-]+)", " ".join(told.split()))
    assert named is not None
    variable, option = named.groups()
    assert variable == f"DPCLEAN_{name.replace(' ', '_')}_{option[2:].replace('-', '_')}".upper()
    assert told.count(option) > 1, "an option that the command has"
    (tmp_path / "c.toml").write_text(f"[{name.replace(' ', '.')}]\njson = true\nno-such-option = 1\n")
    assert run([*name.split(), "--config", str(tmp_path / "c.toml")]) == 2
    assert "no-such-option" in capsys.readouterr().err


def test_a_table_is_read_by_its_command_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.toml").write_text("[denoiser.list]\njson = true\n[sanitize]\nlimit = 'x'\n[doctor]\nquiet = true\n")
    assert run(["denoiser", "list", "--config", str(tmp_path / "c.toml")]) == 0
    assert json.loads(capsys.readouterr().out)["command"] == "denoiser list"


def test_variables_are_named_by_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["plan", "--radius", "0.25", "--json"]
    monkeypatch.setenv("DPCLEAN_SANITIZE_SIGMA", "0.1")
    assert run(asked) == 2
    capsys.readouterr()
    monkeypatch.setenv("DPCLEAN_PLAN_SIGMA", "0.5")
    monkeypatch.setenv("DPCLEAN_POINTS", "7")
    assert run(asked) == 0
    said = capsys.readouterr()
    told = json.loads(said.out)
    assert (told["sigma"], told["points"]) == ("0.5", 1)
    assert said.err == "dpclean: DPCLEAN_POINTS is not read: it could be meant for any command; " + (
        "set DPCLEAN_PLAN_POINTS instead\n"
    )


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("sanitize --format ", {"png", "webp", "same"}),
        ("sanitize --denoiser ", {"natural", "perceptual"}),
        ("train --recipe f", {"fast"}),
        ("certify --dtype ", {"auto", "bf16", "fp16", "fp32"}),
        ("plan --bound ", {"multiclass", "union", "cohen", "anytime"}),
        ("denoiser fit --init n", {"natural"}),
    ],
)
def test_values_complete(words: str, offered: set[str]) -> None:
    line = f"dpclean {words}"
    done = shell(_DPCLEAN_COMPLETE="complete_bash", COMP_WORDS=line, COMP_CWORD=str(len(line.split(" ")) - 1))
    assert set(done.stdout.split()) == offered


def test_help_stands_in_sections(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["sanitize", "--help"]) == 0
    told = capsys.readouterr().out
    headings = [line.rstrip(":") for line in told.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert headings[0] == "Arguments" and len(headings) > 5 and headings[-1] == "Common"
    assert told.index("What comes out:") < told.index("  --format") < told.index("Noise:") < told.index("  --sigma S")


def test_quiet_is_silent_where_all_went_well(raw: Path, denoiser: str, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["sanitize", str(raw), "--denoiser", denoiser, "--quiet", "--out"]
    for _ in ("done", "already complete"):
        assert run([*common, str(raw.parent / "clean"), "--sigma", "0.25"]) == 0
        assert capsys.readouterr() == ("", "")
    assert run([*common, str(raw.parent / "copy"), "--sigma", "0"]) == 0
    said = capsys.readouterr()
    assert said.out == "" and "not sanitized" in said.err


def test_a_plan_of_what_is_impossible_covers_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "--radius", "10", "--sigma", "0.25"]) == 0
    told = capsys.readouterr().out
    assert "Not possible" in told and "covers" not in told
    assert run(["plan", "--radius", "10", "--sigma", "0.25", "--json"]) == 0
    assert not any(row["covered_by_largest"] for row in json.loads(capsys.readouterr().out)["attack_sizes"])


def test_a_sheet_of_noise_levels_is_all_that_is_written(
    raw: Path, denoiser: str, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["sanitize", str(raw), "--out", str(raw.parent / "clean"), "--denoiser", denoiser, "--json"]
    assert run([*asked, "--sigma-sheet", "0.1, 0.5"]) == 0
    pages = [Path(page) for page in json.loads(capsys.readouterr().out)["sigma_sheet"]]
    assert sorted(raw.parent.iterdir()) == sorted([*pages, raw])
    assert pages[0].read_text("utf-8").count("<img") == 2 * 3
    for wrong in ("0.1,x", "", ",".join(["0.1"] * 9)):
        assert run([*asked, "--sigma-sheet", wrong]) == 2


@pytest.mark.parametrize(
    "name", ["clean", "a b", "it's", "$(touch x)", "line\nfeed", "back\\slash\n", "\u202egnp", "-n;x"]
)
def test_the_command_that_checks_the_copy_can_be_copied(
    name: str, raw: Path, denoiser: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(raw.parent / name)
    assert run(["sanitize", str(raw), "--sigma", "0.25", "--out", out, "--denoiser", denoiser, "--workers", "1"]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("Check the copy: "))
    assert line.isprintable()
    locale = {**os.environ, "LC_ALL": "C.UTF-8"}
    done = subprocess.run(["bash", "-c", line.removeprefix("Check the copy: ")], capture_output=True, env=locale)
    assert done.returncode == 0, done.stderr


def test_too_little_memory_is_no_error_of_ours() -> None:
    told = cli._unforeseen(MemoryError("Unable to allocate 9 GiB"))
    assert (told.exit, told.code) == (4, "environment") and "9 GiB" in told.message and "ulimit" in told.remedy
