"""Objects under an fsspec URL (`s3://bucket/prefix`, …), reached over a network that may fail.

An object store has no rename and no folders, and what was written may be read at once. Every call
is tried a bounded number of times; then it raises `StorageUnavailable`, which names the store and
what it said. Whether bytes are the right ones is for the caller to check: names alone say nothing.

What a protocol needs to be told (keys, an endpoint) comes from the environment that its library
reads, as in AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL, or fsspec's
FSSPEC_<PROTOCOL>_<OPTION>; nothing of it stands in our settings.
"""

from __future__ import annotations

import errno
import logging
import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from rag_owl.errors import DataFolderError, InvalidSettings, NotFound, StorageUnavailable

log = logging.getLogger(__name__)

ATTEMPTS = 6
FIRST_PAUSE = 0.2  # seconds; each next one is twice as long: about 6 s in all
_PACKAGES = {"s3": "rag-owl[s3]", "s3a": "rag-owl[s3]", "gs": "gcsfs", "gcs": "gcsfs"}
_PACKAGES |= {"az": "adlfs", "abfs": "adlfs", "abfss": "adlfs"}
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Entry:
    name: str  # below the store's URL
    size: int
    modified: float  # seconds since the epoch, by the store's clock


class ObjectStore:
    """Safe for many threads. Names are relative, with `/` between their parts."""

    def __init__(self, url: str) -> None:
        """Nothing is reached yet. Raises `InvalidSettings` for what is no URL of a known kind."""
        self.url = re.sub(r"//[^/@]*@", "//…@", url.rstrip("/"))  # as it is shown
        protocol = url.partition("://")[0].lower()
        # No listing is remembered: other machines write here too.
        options: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
        if protocol in ("s3", "s3a"):  # it would try again below us, at every one of our attempts
            options["config_kwargs"] = {"retries": {"total_max_attempts": 1, "mode": "standard"}}
        if protocol == "file":
            options["auto_mkdir"] = True
        try:
            from fsspec.core import url_to_fs

            self._fs, self._root = url_to_fs(url, **options)
        except ImportError as error:
            package = _PACKAGES.get(protocol, "fsspec")
            raise InvalidSettings(
                f"setting storage_url: {self.url} needs a package: pip install '{package}'"
            ) from error
        except (ValueError, TypeError) as error:
            raise InvalidSettings(
                f"setting storage_url: {self.url} is no address of a store "
                f"({type(error).__name__}); give one "
                "such as s3://bucket/prefix"
            ) from error
        if hasattr(self._fs, "retries"):
            self._fs.retries = 1
        self._root = self._root.rstrip("/")
        self._clock: float | None = None  # what the store's clock is ahead of time.monotonic()

    def put_bytes(self, name: str, data: bytes) -> None:
        """It is stored when this returns. Raises `StorageUnavailable`, `DataFolderError`."""
        self._write(name, lambda path: self._fs.pipe_file(path, data))
        self._check_size(name, len(data))

    def put_file(self, name: str, source: Path) -> None:
        """As `put_bytes`, of a file of any size."""
        self._write(name, lambda path: self._fs.put_file(str(source), path))
        self._check_size(name, source.stat().st_size)

    def get_bytes(self, name: str) -> bytes:
        """Raises `NotFound`, `StorageUnavailable`, `DataFolderError`."""
        data: bytes = self._try("read", name, self._fs.cat_file)
        return data

    def get_file(self, name: str, target: Path) -> None:
        """As `get_bytes`, into a file. What a failed attempt left in it is overwritten."""
        self._try("read", name, lambda path: self._fs.get_file(path, str(target)))

    def find(self, name: str) -> Entry | None:
        """What the store says of one object; None: there is none."""
        try:
            info = self._try("look for", name, self._fs.info)
        except NotFound:
            return None
        return self._entry(info) if info.get("type") != "directory" else None

    def entries(self, prefix: str) -> Iterator[Entry]:
        """All objects whose names begin with `prefix` and a `/`."""
        try:
            found = self._try("list", prefix, lambda path: self._fs.find(path, detail=True))
        except NotFound:
            return
        for info in found.values():
            yield self._entry(info)

    def folders(self, prefix: str) -> list[str]:
        """What stands between `prefix/` and the next `/` of names, sorted."""
        try:
            found = self._try("list", prefix, lambda path: self._fs.ls(path, detail=True))
        except NotFound:
            return []
        names = (str(info["name"]).rstrip("/") for info in found if info["type"] == "directory")
        return sorted(name.rpartition("/")[2] for name in names)

    def delete(self, name: str) -> None:
        """It is no error when there is none."""
        with suppress(NotFound):
            self._try("delete", name, self._fs.rm_file)

    def age(self, modified: float) -> float:
        """Seconds since then by the store's own clock, whatever ours says and is set to."""
        if self._clock is None:
            self.put_bytes("clock", b"what time it is here")
            entry = self.find("clock")
            if entry is None:
                raise StorageUnavailable(f"{self.url}/clock was written and is not there")
            self._clock = entry.modified - time.monotonic()
        return time.monotonic() + self._clock - modified

    def _write(self, name: str, call: Callable[[str], object]) -> None:
        try:
            self._try("write", name, call)
        except NotFound as error:
            raise DataFolderError(
                f"cannot write {self.url}/{name}: there is no such place. Make the bucket, or "
                "correct RAG_OWL_STORAGE_URL."
            ) from error

    def _check_size(self, name: str, size: int) -> None:
        """Not every kind of store refuses half of an object."""
        entry = self.find(name)
        if entry is None or entry.size != size:
            held = "nothing" if entry is None else f"{entry.size} bytes"
            raise StorageUnavailable(
                f"{self.url}/{name}: {size} bytes were written and the store holds {held}; "
                "run the same command again"
            )

    def _entry(self, info: dict[str, Any]) -> Entry:
        name = str(info["name"])[len(self._root) :].lstrip("/")
        modified = info.get("LastModified") or info.get("mtime") or info.get("created") or 0.0
        if isinstance(modified, str):
            modified = datetime.fromisoformat(modified)
        if isinstance(modified, datetime):
            aware = modified if modified.tzinfo else modified.replace(tzinfo=UTC)
            modified = aware.timestamp()
        return Entry(name, int(info.get("size") or 0), float(modified))

    def _try(self, what: str, name: str, call: Callable[[str], _Result]) -> _Result:
        path = f"{self._root}/{name}"
        began = time.monotonic()
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return call(path)
            except FileNotFoundError as error:
                raise NotFound(f"no {self.url}/{name}") from error
            except PermissionError as error:
                raise DataFolderError(
                    f"{self.url} refuses to {what} {name} ({_reason(error)}); check the key that "
                    "the service has for it"
                ) from error
            except Exception as error:  # of many libraries, which agree on nothing
                reason = _reason(error)
                if not _may_pass(error):
                    raise DataFolderError(f"cannot {what} {self.url}/{name}: {reason}") from error
                if attempt == ATTEMPTS:
                    took = time.monotonic() - began
                    raise StorageUnavailable(
                        f"cannot {what} {self.url}/{name}: {reason} (tried {ATTEMPTS} times in "
                        f"{took:.0f} s). When the store answers again, so does this."
                    ) from error
                log.warning("%s %s/%s: %s; trying again", what, self.url, name, reason)
            time.sleep(FIRST_PAUSE * 2 ** (attempt - 1) * random.uniform(0.75, 1.25))
        raise AssertionError("unreachable")


def _may_pass(error: Exception) -> bool:
    """Whether it may be well in a moment. Programming errors and full local disks are not."""
    if type(error).__name__ in ("NoCredentialsError", "PartialCredentialsError"):  # botocore's
        return False
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        return False
    return not isinstance(error, TypeError | AttributeError | NotImplementedError | ValueError)


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:300]
