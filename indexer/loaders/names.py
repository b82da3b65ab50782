"""Which names were given already: exact enough for millions of them, in little memory."""

from __future__ import annotations

import hashlib
from array import array


class NameSet:
    """A set of names as 8-byte hashes, 12 to 24 bytes each (a Python set of strings: over 100).

    Two names of one hash look the same: among ten million names that happens once in 400,000 files.
    """

    def __init__(self) -> None:
        self._slots = array("Q", bytes(8 * 64))  # open addressing; 0 is a free slot
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, name: str) -> bool:
        """Whether it is new."""
        digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
        if not _put(self._slots, int.from_bytes(digest, "little") or 1):
            return False
        self._count += 1
        if 3 * self._count > 2 * len(self._slots):
            slots = array("Q", bytes(2 * 8 * len(self._slots)))
            for held in self._slots:
                if held:
                    _put(slots, held)
            self._slots = slots
        return True


def _put(slots: array[int], value: int) -> bool:
    last = len(slots) - 1
    at = value & last
    while held := slots[at]:
        if held == value:
            return False
        at = (at + 1) & last
    slots[at] = value
    return True
