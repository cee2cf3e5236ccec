"""A training set in parts, one model each: what decides the part of an image, and what then is claimed.

docs/certificates.md, "Partitions"; who is elected, and how many touched parts leave it so, is in elections.py.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

RUNOFF, PLURALITY = "runoff", "plurality"
ELECTIONS = {  # by name: who wins it, for somebody who has never heard of it
    RUNOFF: "of the two classes that most models rank first, the one that more models rank above the other",
    PLURALITY: "the class that most models rank first",
}
BY_NAME, BY_CONTENT = "name", "content"
WORDS = {BY_NAME: "its name without its class folder", BY_CONTENT: "its content"}  # what decides an image's part


@dataclass(frozen=True)
class Parts:
    """The most images of each kind, each by itself, that leave a point's class what it is; 0 for none."""

    touched: int
    by: str

    def as_json(self) -> dict[str, int]:
        """A change at will may take an image from one part to another; one that keeps its word stays in its part."""
        found = {
            "images_inserted": self.touched,
            "images_changed": self.touched // 2,
            "images_missing": self.touched,
        }
        return found if self.by != BY_NAME else {**found, "images_changed_in_place": self.touched}


def part_of(word: bytes, parts: int) -> int:
    """The part, from 0, of the image with this word: its name below its class folder, or a digest of its content."""
    return int.from_bytes(hashlib.sha256(b"dpclean-part-1\0" + word).digest()[:8], "big") % parts
