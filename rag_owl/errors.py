"""What can go wrong, as one tree.

    RagOwlError
    ├── InvalidInput        the caller gave something that can never work
    │   ├── InvalidQuestion     an empty question, an unreadable picture with it
    │   ├── InvalidFilter       a metadata filter that does not parse
    │   ├── InvalidSettings     an unknown or unparsable setting
    │   └── UnreadableMedia     bytes that cannot be decoded; during a job it becomes a `Skipped`
    ├── NotFound            a collection, document, item, answer or job that does not exist
    ├── Conflict            it exists already, or something else is changing it
    │   ├── DataFolderBusy      another process holds the data folder and does not let go
    │   ├── JobLost             another worker has taken the job over: nothing may be committed
    │   ├── BlobsGone           a deletion collected what was stored just before: store it again
    │   └── QuotaExceeded       a collection holds as much as the operator allows it
    ├── DataFolderError     the folder cannot be used: read-only, full, a newer schema
    │   ├── CorruptData         a file's checksum or shape is not what its manifest says
    │   ├── DatabaseUnavailable it cannot be reached just now, or undid a transaction: try again
    │   └── StorageUnavailable  the object store fails again and again: try again later
    ├── ModelError          a model cannot be loaded or failed while it ran
    │   ├── ModelNotFound       no model of that name here
    │   ├── InvalidCheckpoint   files of a model that are missing, damaged or of another family
    │   ├── OutOfMemory         this request was too large for the device; the process lives on
    │   └── RemoteModelError    a model's server failed, refused, or said what cannot be read
    │       ├── RemoteModelBusy     it is overloaded; may say when to come again
    │       └── RemoteModelTimeout  it took no call, or fell silent
    ├── Forbidden           the caller's key does not allow it
    ├── Busy                too much is waiting already; says when to try again
    └── Cancelled           whoever wanted it has gone away

Every message says what is wrong, with which input, and what to do. Nothing here knows of HTTP;
`rag_owl.api.errors` maps the tree to statuses.
"""

from __future__ import annotations


class RagOwlError(Exception):
    """The root: whatever rag_owl raises on purpose is one of these."""

    field: str | None = None  # the part of the input that it is about, where that is known


class InvalidInput(RagOwlError):
    field: str | None = None
    """Which of the things given it is about, by its name over HTTP; None: not said."""

    def __init__(self, message: str = "", field: str | None = None) -> None:
        super().__init__(message)
        if field is not None:
            self.field = field


class InvalidQuestion(InvalidInput):
    field = "question"


class InvalidFilter(InvalidInput):
    field = "filters"


class InvalidSettings(InvalidInput):
    pass


class UnreadableMedia(InvalidInput):
    """Bytes that cannot be decoded. The message is the reason alone; the caller adds the name."""


class NotFound(RagOwlError):
    pass


class Conflict(RagOwlError):
    pass


class DataFolderBusy(Conflict):
    pass


class JobLost(Conflict):
    pass


class BlobsGone(Conflict):
    def __init__(self, keys: list[str]) -> None:
        super().__init__(f"{len(keys)} stored files were collected meanwhile; do the same again")
        self.keys = keys


class QuotaExceeded(Conflict):
    pass


class DataFolderError(RagOwlError):
    pass


class DatabaseUnavailable(DataFolderError):
    pass


class CorruptData(DataFolderError):
    pass


class StorageUnavailable(DataFolderError):
    pass


class ModelError(RagOwlError):
    pass


class ModelNotFound(ModelError):
    pass


class InvalidCheckpoint(ModelError):
    pass


class OutOfMemory(ModelError):
    pass


class Forbidden(RagOwlError):
    pass


class Busy(RagOwlError):
    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after  # seconds


class Cancelled(RagOwlError):
    pass


class RemoteModelError(ModelError):
    """`public` is what strangers may read of it: no address, and not how it is reached."""

    def __init__(self, message: str, public: str | None = None) -> None:
        super().__init__(message)
        self.public = public or message


class RemoteModelBusy(RemoteModelError):
    retry_after: float | None = None  # seconds, where the server said so


class RemoteModelTimeout(RemoteModelError):
    pass
