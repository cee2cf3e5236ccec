"""Hub ids, through the hub's own client: from its cache on disk, and from a small hub on this machine."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

from dpclean.data.manifest import ANCESTRY_NAME
from tests.networks import make_denoiser

REVISION = "0123456789abcdef0123456789abcdef01234567"
NEEDED = ("config.json", "diffusion_pytorch_model.safetensors", "scheduler/scheduler_config.json")
PROXIES = {"http_proxy", "https_proxy", "all_proxy"}
INCOMPLETE = pytest.mark.parametrize("there", [(), NEEDED[:2]], ids=["nothing", "a part"])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository as it lies on the hub, with weights that nobody should fetch."""
    folder = make_denoiser(tmp_path_factory.mktemp("model") / "ddpm")
    (folder / "diffusion_pytorch_model.bin").write_bytes(b"a pickle")
    (folder / ANCESTRY_NAME).write_bytes(bytes(8))
    (folder / "vae").mkdir()
    (folder / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"weights of another part")
    return folder


def snapshot(home: Path) -> Path:
    """The folder of org/ddpm in a hub cache."""
    return home / "hub" / "models--org--ddpm" / "snapshots" / REVISION


def put_into_cache(model: Path, home: Path, *names: str) -> None:
    snapshot(home).mkdir(parents=True)
    for name in names:
        (snapshot(home) / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(model / name, snapshot(home) / name)
    refs = snapshot(home).parent.parent / "refs"
    refs.mkdir(exist_ok=True)
    (refs / "main").write_text(REVISION)


def environment(home: Path, **settings: str) -> dict[str, str]:
    """For a process of its own, because the client reads its settings once."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("HF_") and k.lower() not in PROXIES}
    return {**inherited, "HF_HOME": str(home), **settings}


def found(home: Path, **settings: str) -> str:
    """The folder that org/ddpm is read from."""
    code = "from dpclean.denoise.loading import find_denoiser; print(find_denoiser('org/ddpm').weights.parent)"
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment(home, **settings), stdout=subprocess.PIPE, text=True).stdout.strip()


def sanitize(home: Path, denoiser: str, **settings: str) -> subprocess.CompletedProcess[str]:
    (home / "raw").mkdir()
    Image.new("RGB", (32, 32)).save(home / "raw" / "1.png")
    command = [sys.executable, "-m", "dpclean", "sanitize", str(home / "raw"), "--out", str(home / "out")]
    return subprocess.run(
        [*command, "--sigma", "0.25", "--json", "--quiet", "--denoiser", denoiser],
        capture_output=True,
        text=True,
        env=environment(home, **settings),
    )


def refusal(home: Path, denoiser: str, **settings: str) -> str:
    done = sanitize(home, denoiser, **settings)
    assert done.returncode == 4 and done.stderr == ""
    return str(json.loads(done.stdout)["error"]["message"])


@contextmanager
def hub(model: Path) -> Iterator[tuple[str, list[str]]]:
    """(address, paths asked for) of a hub that has org/ddpm and answers as huggingface.co does."""
    asked: list[str] = []
    files = {path.relative_to(model).as_posix(): path.read_bytes() for path in model.rglob("*") if path.is_file()}

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            if not self.path.startswith(("/api/models/org/ddpm/", "/org/ddpm/resolve/")):
                self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            elif "/tree/" in self.path:
                entries = [{"type": "file", "path": n, "size": len(b), "oid": "0" * 40} for n, b in files.items()]
                self._send(200, json.dumps(entries).encode(), {})
            elif "/resolve/" in self.path:
                content = files[self.path.split(f"/resolve/{REVISION}/")[1]]
                self._send(200, content, {"ETag": hashlib.sha256(content).hexdigest(), "X-Repo-Commit": REVISION})
            else:
                siblings = [{"rfilename": name} for name in files]
                self._send(200, json.dumps({"id": "org/ddpm", "sha": REVISION, "siblings": siblings}).encode(), {})

        do_HEAD = do_GET

        def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


def test_a_model_in_the_cache_sanitizes_without_a_network(model: Path, tmp_path: Path) -> None:
    put_into_cache(model, tmp_path, *NEEDED)
    done = sanitize(tmp_path, "org/ddpm", HF_HUB_OFFLINE="1")
    assert done.returncode == 0 and json.loads(done.stdout)["images"] == 1, done.stdout


def test_a_model_in_the_cache_is_not_asked_for_again(model: Path, tmp_path: Path) -> None:
    put_into_cache(model, tmp_path, *NEEDED)
    with hub(model) as (address, asked):
        assert found(tmp_path, HF_ENDPOINT=address) == str(snapshot(tmp_path))
    assert asked == []


@INCOMPLETE
def test_what_the_cache_lacks_is_fetched_and_nothing_else(model: Path, tmp_path: Path, there: tuple[str, ...]) -> None:
    put_into_cache(model, tmp_path, *there)
    with hub(model) as (address, _):
        assert found(tmp_path, HF_ENDPOINT=address) == str(snapshot(tmp_path))
    files = {p.relative_to(snapshot(tmp_path)).as_posix() for p in snapshot(tmp_path).rglob("*.*")}
    assert files == {*NEEDED, ANCESTRY_NAME}


@INCOMPLETE
def test_what_the_cache_lacks_is_refused_without_a_network(model: Path, tmp_path: Path, there: tuple[str, ...]) -> None:
    put_into_cache(model, tmp_path, *there)
    assert "the local cache of the hub lacks it" in refusal(tmp_path, "org/ddpm", HF_HUB_OFFLINE="1")


def test_what_the_hub_does_not_have_is_refused(model: Path, tmp_path: Path) -> None:
    with hub(model) as (address, _):
        assert "no such model" in refusal(tmp_path, "org/dpdm", HF_ENDPOINT=address)


def test_what_cannot_be_an_id_is_refused(tmp_path: Path) -> None:
    assert "neither a folder nor a possible hub id" in refusal(tmp_path, "data/my model")


def test_a_hub_that_cannot_be_reached_is_refused(tmp_path: Path) -> None:
    assert "cannot be asked" in refusal(tmp_path, "org/ddpm", HF_ENDPOINT="http://127.0.0.1:9")
