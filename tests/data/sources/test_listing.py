"""The frozen listing: which entries it has, in which order, and where their outputs go."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpclean.data.formats import OUTPUT_ENDINGS, stem
from dpclean.data.sources.listing import Found, Listing, Stems
from dpclean.errors import Reason


def listed(root: Path, follow_links: bool = False) -> list[Found]:
    return list(Listing(os.fsencode(root), follow_links, [".png"]))


def names(root: Path) -> list[str]:
    return [found.name for found in listed(root)]


def reasons(root: Path, follow_links: bool = False) -> dict[str, Reason | None]:
    return {found.name: found.reason for found in listed(root, follow_links)}


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


# --- order ------------------------------------------------------------------------------------------------------------

PARTS = st.text(st.sampled_from("ab-/.!~é0"), min_size=1, max_size=6)


@given(
    st.sets(
        st.lists(PARTS.filter(lambda part: "/" not in part and not part.startswith(".")), min_size=1, max_size=3).map(
            "/".join
        ),
        max_size=12,
    )
)
def test_order_is_that_of_the_whole_name_in_bytes(paths: set[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for path in paths:
            try:
                touch(Path(folder, path))
            except (FileExistsError, NotADirectoryError, IsADirectoryError):
                continue  # a name that is both file and folder
        found, walk = names(Path(folder)), os.walk(folder)
        files = [os.path.relpath(os.path.join(top, file), folder) for top, _, inner in walk for file in inner]
        assert found == sorted(files, key=os.fsencode)


def test_a_folder_sorts_as_if_its_name_ended_with_a_slash(tmp_path: Path) -> None:
    for name in ("a/b.png", "a-b.png", "a.png", "a0.png"):
        touch(tmp_path / name)
    assert names(tmp_path) == ["a-b.png", "a.png", "a/b.png", "a0.png"]


def test_strange_names_are_kept_byte_for_byte(tmp_path: Path) -> None:
    strange = [b" a b", b'"quoted"', b"new\nline", b"-dash", b"100%", "🙂.png".encode(), "\u202eright".encode(),
               b"x" * 251 + b".png", b"\xff\xfe.png", b"CON", b"dot.", "é".encode(), "e\u0301".encode()]  # fmt: skip
    for name in strange:
        os.close(os.open(os.path.join(os.fsencode(tmp_path), name), os.O_CREAT))
    assert [name.encode("utf-8", "surrogateescape") for name in names(tmp_path)] == sorted(strange)
    assert set(reasons(tmp_path).values()) == {None}


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_names_do_not_depend_on_the_locale(tmp_path: Path, locale: str) -> None:
    (tmp_path / "é.png").touch()
    program = """
import os, sys
from dpclean.data.sources.listing import Listing
for found in Listing(os.fsencode(sys.argv[1]), False):
    print(ascii(found.name))
"""
    environment = os.environ | {"LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    said = subprocess.check_output([sys.executable, "-c", program, tmp_path], env=environment, text=True)
    assert said == ascii("é.png") + "\n"


def test_hidden_entries_are_skipped_and_counted(tmp_path: Path) -> None:
    for name in (".DS_Store", "a/.hidden.png", ".git/x.png", ".git/y.png", "a/Thumbs.db"):
        touch(tmp_path / name)
    listing = Listing(os.fsencode(tmp_path), False)
    assert [found.name for found in listing] == ["a/Thumbs.db"]
    assert listing.hidden == 3


def test_a_hundred_levels(tmp_path: Path) -> None:
    deep = "/".join(["d"] * 100) + "/x.png"
    touch(tmp_path / deep)
    assert listed(tmp_path) == [Found(deep, deep[:-4], None)]


# --- what is no file to be read ---------------------------------------------------------------------------------------


def test_links(tmp_path: Path) -> None:
    root = tmp_path / "raw"
    touch(root / "in" / "x.png")
    touch(tmp_path / "outside.png")
    touch(tmp_path / "raw-sibling" / "x.png")
    links = {
        "inside": "in/x.png",
        "absolute": root / "in" / "x.png",
        "outside": "../outside.png",
        "sibling": tmp_path / "raw-sibling" / "x.png",  # its path begins with the letters of the root's
        "through": "outside",
        "self": "self",
        "dangling": "nothing",
        "folder": "in",
        "parent": ".",
        "device": "/dev/zero",
        "folder outside": "../raw-sibling",
    }
    for name, target in links.items():
        (root / name).symlink_to(target)
    left_out = dict.fromkeys(("self", "dangling", "folder", "parent", "device"), Reason.NOT_REGULAR)
    read = dict.fromkeys(("in/x.png", "inside", "absolute"))
    outside = ("outside", "sibling", "through", "folder outside")
    assert reasons(root) == read | left_out | dict.fromkeys(outside, Reason.OUTSIDE_ROOT)
    followed = dict.fromkeys((*outside[:3], "folder/x.png", "folder outside/x.png"))
    assert reasons(root, follow_links=True) == {n: r for n, r in (read | left_out).items() if n != "folder"} | followed


def test_pipes_and_sockets_are_listed_and_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    monkeypatch.chdir(tmp_path)  # a socket's path has a short limit
    with socket.socket(socket.AF_UNIX) as end:
        end.bind("socket.png")
    os.link(touch(tmp_path / "x.png"), tmp_path / "y.png")
    (tmp_path / "folder.png").mkdir()
    assert reasons(tmp_path) == {
        "pipe.png": Reason.NOT_REGULAR,
        "socket.png": Reason.NOT_REGULAR,
        "x.png": None,
        "y.png": None,
    }


@contextmanager
def unprivileged() -> Iterator[None]:
    """As a user whom permissions stop, where the tests run as root."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_an_unreadable_folder_is_one_entry() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        root.chmod(0o755)
        for name in ("a/x.png", "b/x.png", "b.png", "c/x.png"):
            touch(root / name)
        (root / "b").chmod(0)
        with unprivileged():
            assert reasons(root) == {"a/x.png": None, "b.png": None, "b/": Reason.UNREADABLE, "c/x.png": None}
        (root / "b").chmod(0o755)


def test_too_deep_or_long_is_unreadable(tmp_path: Path) -> None:
    """Folders below the system's limit for a path, made one by one."""
    (tmp_path / "x.png").touch()
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(20):
        os.mkdir("d" * 250, dir_fd=here)
        here, above = os.open("d" * 250, os.O_RDONLY, dir_fd=here), here
        os.close(above)
        os.close(os.open("x.png", os.O_CREAT, dir_fd=here))
    os.close(here)
    found = reasons(tmp_path)
    assert found.pop("x.png") is None
    by_depth = [found[name] for name in sorted(found, key=len)]
    assert by_depth == [None] * 12 + [Reason.UNREADABLE] * (len(by_depth) - 12) and len(by_depth) > 12


# --- output names -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("x.png", "x"),
        ("x.JPEG", "x"),
        ("x.tar.tiff", "x.tar"),
        ("x", "x"),
        ("x.", "x."),
        ("x.txt", "x.txt"),
        ("x.heic", "x"),
        ("folder.png/x", "folder.png/x"),
        ("a/.png", "a/.png"),
    ],
)
def test_a_known_ending_goes_away(name: str, expected: str) -> None:
    assert stem(name) == expected


def outputs(*files: str) -> dict[str, str | None]:
    stems = Stems([os.fsencode(name) for name in sorted(files)], frozenset([".png"]))
    results = {name: stems.of(name) for name in files if not name.endswith("/")}
    return {name: None if collides else output + ".png" for name, (output, collides) in results.items()}


def test_names_that_would_meet_stay_whole() -> None:
    assert outputs("a.png", "a.jpg", "b.jpg") == {"a.png": "a.png.png", "a.jpg": "a.jpg.png", "b.jpg": "b.png"}
    assert outputs("x", "x.png") == {"x": "x.png", "x.png": "x.png.png"}
    assert outputs("a.png", "a.PNG") == {"a.png": "a.png.png", "a.PNG": "a.PNG.png"}
    assert outputs("X.png", "x.png") == {"X.png": "X.png", "x.png": "x.png"}


def test_what_meets_a_name_that_stayed_whole_stays_whole_too() -> None:
    assert outputs("a.png", "a.jpg", "a.png.jpg") == {
        "a.png": "a.png.png",
        "a.jpg": "a.jpg.png",
        "a.png.jpg": "a.png.jpg.png",
    }


def test_a_folder_keeps_its_name() -> None:
    assert outputs("a.jpg", "a.png/") == {"a.jpg": "a.jpg.png"}
    assert outputs("a.jpg", "a.jpeg/") == {"a.jpg": "a.png"}
    assert outputs("a.jpg", "a.png/", "a.jpg.png/") == {"a.jpg": None}


FILES = st.lists(st.sampled_from(["a", "b", ".png", ".jpg", ".JPG", ".txt", ".webp"]), min_size=1, max_size=4).map(
    "".join
)
SETS = st.sets(FILES.filter(lambda name: not name.startswith(".")), max_size=12)


@given(files=SETS, folders=SETS)
def test_no_two_outputs_are_equal(files: set[str], folders: set[str]) -> None:
    folders = folders - files
    found = outputs(*files, *(folder + "/" for folder in folders))
    taken = [output for output in found.values() if output is not None]
    assert len(set(taken)) == len(taken) and not folders & set(taken)
    for name, output in found.items():
        assert output in (None, stem(name) + ".png", name + ".png")
        if output is None:
            assert name + ".png" in folders  # nothing but a folder's name costs an image
        elif output != stem(name) + ".png":
            rivals = {stem(other) for other in files - {name}} | (files - {name})
            assert stem(name) in rivals or stem(name) + ".png" in folders  # no name is changed without need


@given(SETS)
def test_no_ending_that_the_content_may_choose_makes_outputs_meet(files: set[str]) -> None:
    stems = Stems([os.fsencode(name) for name in sorted(files)], frozenset(OUTPUT_ENDINGS.values()))
    chosen = [{stems.of(name)[0] + ending for ending in OUTPUT_ENDINGS.values()} for name in files]
    assert len(set().union(*chosen)) == len(chosen) * len(OUTPUT_ENDINGS)


def test_linked_folders_are_walked_where_links_are_followed_and_never_in_a_circle(tmp_path: Path) -> None:
    root, pool = tmp_path / "raw", tmp_path / "pool"
    touch(root / "cat" / "1.png")
    touch(pool / "dogs" / "2.png")
    touch(pool / "dogs" / "puppies" / "3.png")
    (root / "dog").symlink_to("../pool/dogs")
    (root / "kitten").symlink_to("cat")
    (pool / "dogs" / "again").symlink_to(".")
    (pool / "dogs" / "puppies" / "up").symlink_to("../../../raw")
    (root / "self").symlink_to(".")
    assert reasons(root) == {
        "cat/1.png": None,
        "dog": Reason.OUTSIDE_ROOT,
        "kitten": Reason.NOT_REGULAR,
        "self": Reason.NOT_REGULAR,
    }
    assert reasons(root, follow_links=True) == {
        "cat/1.png": None,
        "dog/2.png": None,
        "dog/again": Reason.NOT_REGULAR,
        "dog/puppies/3.png": None,
        "dog/puppies/up": Reason.NOT_REGULAR,
        "kitten/1.png": None,
        "self": Reason.NOT_REGULAR,
    }
