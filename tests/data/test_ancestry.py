"""What an output was made of: written, read, united, and never believed when it is damaged."""

from __future__ import annotations

import hashlib
import tracemalloc
from pathlib import Path

import pytest

from dpclean.data.ancestry import Ancestry, ancestry_in, ancestry_of_data, read_ancestry, united
from dpclean.errors import ConflictError, InputError

HASHES = [hashlib.sha256(bytes([number])).digest() for number in range(20)]


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    made = Ancestry.of([*HASHES, *HASHES], "ab" * 32) | Ancestry.unknown("nobody knows")
    (tmp_path / "a").write_bytes(made.dump())
    found = read_ancestry(tmp_path / "a")
    assert found.dump() == made.dump() and len(found.images) == 20
    assert all(image in found for image in HASHES) and hashlib.sha256(b"other").digest() not in found
    assert found.raw_pixel_digests == {"ab" * 32} and found.because() == "nobody knows" and not found.complete
    assert Ancestry.of(HASHES).complete and bytes(8) not in Ancestry()


def test_what_several_things_were_made_of_is_united_and_compared() -> None:
    one, two = Ancestry.of(HASHES[:12], "1"), Ancestry.of(HASHES[8:], "2") | Ancestry.unknown("b")
    both = united([one, Ancestry.unknown("a"), two])
    assert len(both.images) == 20 and both.raw_pixel_digests == {"1", "2"} and both.because() == "a; b"
    assert one.shared_images(two) == 4 and Ancestry().shared_images(two) == 0


@pytest.mark.parametrize("inherited", [Ancestry(), Ancestry.of(HASHES[8:], "cd" * 32) | Ancestry.unknown("b")])
def test_images_that_are_never_in_memory_together_give_the_same_file(inherited: Ancestry) -> None:
    prefixes = sorted(image[:8] for image in [*HASHES[:12], *HASHES[:3]])
    whole = (Ancestry.of(prefixes, "ab" * 32) | inherited).dump()
    assert b"".join(inherited.dump_with(lambda: prefixes, "ab" * 32)) == whole


def test_the_file_of_many_images_takes_the_memory_of_a_few() -> None:
    def size() -> int:
        return sum(map(len, Ancestry().dump_with(lambda: (n.to_bytes(8, "big") for n in range(20_000)), "ab" * 32)))

    tracemalloc.start()
    try:
        assert size() > 160_000
        assert tracemalloc.get_traced_memory()[1] < 40_000
    finally:
        tracemalloc.stop()


def spoilt() -> dict[str, bytes]:
    whole = Ancestry.of(HASHES, "ab" * 32).dump()
    flipped = bytearray(whole)
    flipped[-100] ^= 1
    swapped = whole[: -(32 + 16)] + whole[-40:-32] + whole[-48:-40]
    return {
        "empty": b"",
        "cut": whole[:-8],
        "cut in an entry": whole[:-3],
        "longer": whole + whole[-8:],
        "a bit": bytes(flipped),
        "of no format": b"8 bytes." * 20,
        "not sorted": swapped + hashlib.sha256(swapped).digest(),
        "no header": (body := b"dpclean ancestry\n[]\n") + hashlib.sha256(body).digest(),
        "nested": (body := b"dpclean ancestry\n" + b"[" * 100_000 + b"\n") + hashlib.sha256(body).digest(),
    }


@pytest.mark.parametrize("how", spoilt())
def test_a_damaged_file_is_refused(tmp_path: Path, how: str) -> None:
    (tmp_path / "dpclean.ancestry").write_bytes(spoilt()[how])
    with pytest.raises(InputError, match="damaged"):
        read_ancestry(tmp_path / "dpclean.ancestry")
    with pytest.raises(InputError, match="damaged"):  # it is there, so it is not simply unknown
        ancestry_in(tmp_path, "nobody knows")


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    body = b'dpclean ancestry\n{"format": 2, "something": "else"}\n'
    (tmp_path / "a").write_bytes(body + hashlib.sha256(body).digest())
    with pytest.raises(ConflictError, match="format 2"):
        read_ancestry(tmp_path / "a")


def test_where_there_is_none(tmp_path: Path) -> None:
    assert ancestry_in(tmp_path, "nobody knows").because() == "nobody knows"
    assert ancestry_of_data(tmp_path).complete  # images, as far as anybody can tell
    (tmp_path / "dpclean.ancestry").symlink_to("nowhere")
    with pytest.raises(InputError, match="missing"):
        ancestry_in(tmp_path, "nobody knows")
    (tmp_path / "dpclean.ancestry").unlink()
    (tmp_path / "dpclean.json").write_text("{}")
    (tmp_path / "red").mkdir()
    for folder in (tmp_path, tmp_path / "red"):  # sanitized, so it must be there; or a stranger's
        with pytest.raises(InputError, match="missing") as refused:
            ancestry_of_data(folder)
        assert "in raw data dpclean.json is not of your making: remove it" in refused.value.remedy


def test_bundled_denoisers_say_all_that_they_were_made_of() -> None:
    from dpclean.denoise.loading import BUNDLED, find_denoiser

    for name in BUNDLED:
        ancestry = find_denoiser(name).ancestry()
        assert len(ancestry.images) == 15199 and ancestry.complete


def test_what_strangers_say_is_short_and_printable(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(Ancestry(gaps=frozenset(["x\n\x1b[31m" * 1000])).dump())
    assert len(read_ancestry(tmp_path / "a").because()) <= 300 and read_ancestry(tmp_path / "a").because().isprintable()
