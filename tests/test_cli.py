"""The command line as a shell sees it: exit codes, standard output and error, environment, configuration."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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
    monkeypatch.setenv("DPCLEAN_SIGMA", "0.2")
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
    monkeypatch.setenv("DPCLEAN_LIMIT", "some")
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


def test_doctor_and_denoiser_list_tell_what_is_there() -> None:
    examined = json.loads(shell("doctor", "--json").stdout)
    assert examined["command"] == "doctor" and examined["status"] in ("ok", "warn", "fail")
    listed = json.loads(shell("denoiser", "list", "--json").stdout)["denoisers"]
    assert [row["id"] for row in listed] == ["natural", "perceptual"]
    assert len({row["weights"] for row in listed}) == 2 and len(listed[0]["weights"]) == 64
