"""Every setting, read once at the entry from arguments and `RAG_OWL_…` environment variables.

An unknown or unparsable setting stops the start (`InvalidSettings`), so that a misspelt name never
silently means the default.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from rag_owl.errors import InvalidSettings

PREFIX = "RAG_OWL_"
MOST_ITEMS = 400  # retrieved for one question
# Read by the test suite and, the last, by the command line; no settings of the product.
_OTHER_NAMES = {
    "RAG_OWL_GOLDEN",
    "RAG_OWL_QWEN2_TOKENIZER",
    "RAG_OWL_TEST_CHROMIUM",
    "RAG_OWL_TEST_POSTGRES",
    "RAG_OWL_DEBUG",
}


_DATABASES = ("postgresql+psycopg", "sqlite", "sqlite+pysqlite")
_BUNDLED = ("sentences", "owl-nano")  # a test holds it equal to the registry's


class RemoteModel(BaseModel):
    """A model behind an OpenAI-compatible server. No secret stands here, only where it lies."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    base_url: str = Field(description="As in `http://gpu-7:8000/v1`.")
    model: str = Field(min_length=1, description="The name that the server knows it by.")
    api_key_env: str | None = Field(None, description="The environment variable with the key.")
    most_pictures: int = Field(16, ge=0, le=256, description="Shown at once; 0: it has no eyes.")
    picture_side: int = Field(1024, ge=64, le=4096, description="Pictures are scaled to it.")
    connect_seconds: float = Field(5.0, gt=0, description="Until the server takes the call.")
    read_seconds: float = Field(60.0, gt=0, description="Without a sign of life.")
    total_seconds: float = Field(300.0, gt=0, description="For one answer with all retries.")
    retries: int = Field(2, ge=0, le=10, description="Only before the first piece of an answer.")
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    parameters: dict[str, Any] = Field(
        {"temperature": 0}, description="Further fields of each request."
    )

    @field_validator("base_url")
    @classmethod
    def _plain_url(cls, url: str) -> str:
        try:
            parts = urlsplit(url)
            well = parts.scheme in ("http", "https") and bool(parts.hostname)
            _ = parts.port
        except ValueError:
            well = False
        if not well:
            raise ValueError("give an address such as http://host:8000/v1")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("give it without user, password or query; name the key's variable")
        return url.rstrip("/")


class Quota(BaseModel):
    """How much a collection may hold."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    documents: int | None = Field(default=None, ge=0)
    items: int | None = Field(default=None, ge=0, description="Of current documents.")


class Schedule(BaseModel):
    """A job that begins by the clock."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    cron: str = Field(description="Five fields, in UTC: `0 3 * * *` is each day at three.")
    kind: Literal["ingest", "merge", "verify", "expire", "backup"]
    collection: str | None = Field(default=None, description="Of `ingest` needed; else none: all.")
    path: Path | None = Field(
        default=None, description="Of `ingest`: what is looked through again."
    )

    @field_validator("cron")
    @classmethod
    def _is_cron(cls, cron: str) -> str:
        from croniter import croniter

        if len(cron.split()) != 5 or not croniter.is_valid(cron):
            raise ValueError(f"{cron!r} is no cron expression of five fields, as in '0 3 * * *'")
        return cron

    @model_validator(mode="after")
    def _is_whole(self) -> Schedule:
        if self.kind == "ingest" and (self.collection is None or self.path is None):
            raise ValueError("a schedule of ingest needs a collection and a path")
        if self.kind != "ingest" and self.path is not None:
            raise ValueError(f"a schedule of {self.kind} has no path")
        return self


def below_a_root(path: Path, roots: Sequence[Path]) -> Path:
    """The path as it is now, with links followed. Raises `InvalidSettings` outside the roots."""
    real = path.expanduser().resolve()
    if not any(real.is_relative_to(root.expanduser().resolve()) for root in roots):
        listed = ", ".join(map(str, roots)) or "none"
        raise InvalidSettings(
            f"{path} is not below a folder of {PREFIX}SCAN_ROOTS ({listed}); "
            "only those are looked through by the clock"
        )
    return real


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    data: Path = Field(Path("owl-data"), description="The data folder.")
    database_url: str | None = Field(
        None,
        description="An address (`postgresql://user@host/name`). Default: SQLite in the folder.",
    )
    storage_url: str | None = Field(
        None,
        description="Where blobs, segments and visual features lie, as an fsspec URL "
        "(`s3://bucket/prefix`). Default: in the data folder. docs/operations.md.",
    )
    cache_bytes: int = Field(
        20 * 2**30,
        ge=1,
        description="Disk space in the data folder for copies of what lies at `storage_url`.",
    )
    text_embedder: str = Field(
        "all-MiniLM-L6-v2",
        description="Text embedder of new collections: any sentence-transformers name.",
    )
    picture_embedder: str = Field(
        "owl-nano-eyes",
        description="Picture embedder of new collections: `owl-nano-eyes`, `descriptor`, or any "
        "multimodal sentence-transformers name.",
    )
    embedders: str = Field(
        "",
        description="Further embedders that a reindex over HTTP may choose, with commas; the "
        "bundled ones and those above always.",
    )
    vector_engine: Literal["faiss", "milvus"] = Field(
        "faiss", description="What holds the vectors of new collections."
    )
    milvus_url: str | None = Field(
        None,
        description="Where Milvus is (`http://milvus:19530`), for collections whose vectors it "
        "holds. Its token is read from `MILVUS_TOKEN`.",
    )
    index_type: Literal["auto", "flat", "hnsw", "ivf"] = Field(
        "auto", description="Vector index of new collections; `auto` chooses by size."
    )
    model: str = Field(
        "owl-nano",
        description="The answering model: a bundled one, or a checkpoint's folder or hub id.",
    )
    remote_models: dict[str, RemoteModel] = Field(
        {},
        description=(
            "Models behind OpenAI-compatible servers, as JSON: name → `base_url`, `model`, "
            "`api_key_env` and more (docs/answers.md)."
        ),
    )
    judge: str = Field(
        "owl-nano",
        description="What checks citations beside their exact words: `owl-nano`, `none`, or the "
        "folder or hub id of a sentence-transformers cross-encoder for inference.",
    )
    abstain_below: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Probability that the collection holds the answer below which `sentences` and "
        "`owl-nano` give none. Default: each one's own.",
    )
    remote_calls: int = Field(
        32, ge=1, le=1_000, description="Questions that model servers are asked at once."
    )
    answer_tokens: int = Field(512, ge=1, description="The longest answer of a language model.")
    device: str = Field(
        "auto", description="Where a checkpoint runs: `auto` (a GPU where there is one), `cpu`, …"
    )
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        None, description="In which numbers it runs. Default: those of its checkpoint."
    )
    quantize: Literal["8bit", "4bit"] | None = Field(
        None, description="Its language part in 8 or 4 bits; needs bitsandbytes."
    )
    model_rows: int = Field(
        8, ge=1, le=256, description="Questions that it answers at once, in one batch."
    )
    video_frames: int = Field(
        64, ge=1, le=400, description="Frames that it is shown of all videos of a question."
    )
    source_pixels: int = Field(
        256 * 28 * 28,
        ge=28 * 28,
        description="Pixels of a retrieved picture that a model with pictures of many sizes (Ovis "
        "1.6, Qwen2-VL) is shown at most; smaller where a context does not fit.",
    )
    question_pixels: int = Field(
        1_280 * 28 * 28, ge=28 * 28, description="The same for pictures of the user's."
    )
    source_min_pixels: int = Field(
        4 * 28 * 28,
        ge=4 * 28 * 28,
        description="Pixels to which a smaller retrieved picture is enlarged for Qwen2-VL, where "
        "there is room.",
    )
    question_min_pixels: int = Field(
        4 * 28 * 28, ge=4 * 28 * 28, description="The same for pictures of the user's."
    )
    features_bytes: int = Field(
        20 * 2**30, ge=0, description="Disk space for what the model remembers of pictures."
    )
    features_storage: Literal["bfloat16", "int8", "float32"] = Field(
        "bfloat16", description="How that is stored; `int8` takes half of the space of `bfloat16`."
    )
    picture_cache_bytes: int = Field(
        512 * 2**20, ge=0, description="Memory for keys and values of pictures that were used last."
    )
    k: int = Field(5, ge=1, le=MOST_ITEMS, description="Items retrieved for a question.")
    context_characters: int = Field(
        24_000, ge=500, description="Budget of text shown to the answering model."
    )
    gpu_index_bytes: int = Field(
        2 * 2**30, ge=0, description="GPU memory for vectors, where faiss was built for GPUs."
    )
    batch_size: int = Field(32, ge=1, le=4096, description="Texts embedded at once.")
    max_pixels: int = Field(100_000_000, ge=1, description="Largest picture that is decoded.")
    max_pages: int = Field(5_000, ge=1, description="Longest PDF that is read.")
    max_video_seconds: int = Field(6 * 3_600, ge=1, description="Longest video that is read.")
    max_archive_members: int = Field(
        100_000, ge=1, description="Most files of one archive that is read."
    )
    max_archive_bytes: int = Field(
        64 * 2**30, ge=1, description="Most that one archive may unpack to."
    )
    video_decoder: Literal["auto", "decord", "pyav"] = Field(
        "auto", description="What decodes videos; `auto` is PyAV, `decord` falls back to it."
    )
    video_every: float = Field(
        1.0, ge=0.1, le=3_600, description="Seconds from one look at a video to the next."
    )
    quotas: dict[str, Quota] = Field(
        {},
        description=(
            "How much a collection may hold, as JSON: name → `documents`, `items`; `*` is each "
            "that is not named (docs/operations.md)."
        ),
    )
    keep_answers_days: float | None = Field(
        None, ge=0, description="Answers are deleted when they are older. Default: never."
    )
    keep_pictures_days: float | None = Field(
        None,
        ge=0,
        description="Pictures and videos of questions are deleted when they are older. Default: "
        "with their answers.",
    )
    max_bytes: int = Field(8 * 2**30, ge=1, description="Largest file that is read.")
    decode_seconds: float = Field(
        60.0,
        gt=0,
        le=86_400,
        description="Longest time for decoding one piece: a picture, a page, a stretch of video.",
    )
    decode_memory: int = Field(
        2 * 2**30,
        ge=256 * 2**20,
        description="Memory of one decoder's process, in bytes of data.",
    )
    decoders: int = Field(
        2, ge=1, le=64, description="Pictures of questions decoded at the same time."
    )

    host: str = Field(
        "127.0.0.1", description="Where `serve` listens. Any but loopback needs a key first."
    )
    port: int = Field(8000, ge=0, le=65535, description="Its port; 0: any that is free.")
    require_key: bool = Field(
        False, description="Ask for a key on loopback too, as behind a proxy that strangers reach."
    )
    allowed_hosts: str = Field(
        "", description="Further `Host` names of the service, with commas; then a key is needed."
    )
    cors_origins: str = Field(
        "", description="Origins whose pages may call the service, with commas."
    )
    trusted_proxies: str = Field(
        "", description="Addresses whose `X-Forwarded-For` is believed, with commas."
    )
    key_rate: str = Field("1200/minute", description="Requests of one key.")
    address_rate: str = Field("2400/minute", description="Requests from one address.")
    rate_storage: str = Field(
        "memory://", description="Where they are counted; `redis://…` for several processes."
    )
    waiting_questions: int = Field(
        32, ge=0, description="Questions that wait for the model; more are told to come later."
    )
    question_pictures: int = Field(16, ge=0, description="Pictures of one question over HTTP.")
    max_request_bytes: int = Field(
        16 * 2**20, ge=1024, description="Largest request over HTTP that is no upload."
    )
    max_question_bytes: int = Field(
        256 * 2**20, ge=1024, description="Largest question with its pictures and its video."
    )
    max_upload_bytes: int = Field(8 * 2**30, ge=1, description="Largest upload, all its files.")
    body_seconds: float = Field(
        60.0,
        gt=0,
        le=3_600,
        description="Waiting for a request's body; with 16 KiB a second it may take longer.",
    )
    max_upload_files: int = Field(1_000, ge=1, description="Files of one upload.")
    allow_url_ingest: bool = Field(False, description="Whether documents may be given by URL.")
    url_bytes: int = Field(64 * 2**20, ge=1, description="Largest document fetched by URL.")
    url_seconds: float = Field(60.0, gt=0, description="Longest fetch of one, with redirects.")
    job_runner: Literal["process", "thread", "none"] = Field(
        "process",
        description="Where `serve` works jobs: a process beside it, itself, or elsewhere alone.",
    )
    stalled_seconds: float = Field(
        30.0,
        ge=2,
        le=3_600,
        description="On PostgreSQL: after how long a silent worker's jobs go to others.",
    )
    scan_roots: list[Path] = Field(
        [], description="Folders that periodic jobs may look through, as a JSON list."
    )
    schedules: list[Schedule] = Field(
        [],
        description=(
            "Periodic jobs, as a JSON list: `cron`, `kind` (`ingest`, `merge`, `verify`, "
            "`expire`, `backup`), `collection`, `path` (docs/operations.md)."
        ),
    )
    backup_folder: Path | None = Field(
        None, description="Where jobs write backups (`POST /v1/backups`, schedules)."
    )
    shutdown_seconds: int = Field(
        30, ge=0, description="How long `serve` lets running answers finish when it is stopped."
    )
    traces: Literal["none", "otlp"] = Field(
        "none",
        description="Where `serve` sends traces; `otlp` needs the extra `otel` and the standard's "
        "own `OTEL_…` variables.",
    )
    log_format: Literal["json", "text"] = Field("json", description="Of the log of `serve`.")

    @field_validator("data", mode="before")
    @classmethod
    def _not_empty(cls, data: Any) -> Any:
        # As of a shell's variable that is not set; as a path it would be the current folder.
        if data == "":
            raise ValueError("the data folder's name is empty; name a folder ('.' is this one)")
        return data

    @field_validator("database_url")
    @classmethod
    def _known_database(cls, given: str | None) -> str | None:
        if not given:
            return given
        try:
            kind = make_url(given).drivername
        except (ArgumentError, ValueError):  # the latter: a port that is no number
            kind = ""
        if kind in ("postgresql", "postgres"):  # as most hosts give it
            return _DATABASES[0] + given[len(kind) :]
        if kind not in _DATABASES:
            raise ValueError(f"give an address such as {_DATABASES[0]}://user@host/name")
        return given

    @field_validator("remote_models")
    @classmethod
    def _plain_names(cls, models: dict[str, RemoteModel]) -> dict[str, RemoteModel]:
        for name in models:
            if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,62}", name) or name in _BUNDLED:
                raise ValueError(
                    f"{name!r} cannot name a remote model: use a-z, 0-9, '.', '_' and '-', and no "
                    "bundled model's name"
                )
        return models

    @field_validator("source_min_pixels", "question_min_pixels")
    @classmethod
    def _least_is_no_more_than_most(cls, least: int, info: ValidationInfo) -> int:
        bound = str(info.field_name).replace("_min_", "_")
        if least > max(info.data.get(bound, least), 4 * 28 * 28):
            raise ValueError(f"must be no more than {bound}, {info.data[bound]}")
        return least

    @field_validator("schedules")
    @classmethod
    def _below_roots(cls, schedules: list[Schedule], info: ValidationInfo) -> list[Schedule]:
        for schedule in schedules:
            if schedule.path is not None:
                try:
                    below_a_root(schedule.path, info.data.get("scan_roots", []))
                except InvalidSettings as error:
                    raise ValueError(str(error)) from None
        return schedules

    @property
    def periodic(self) -> list[Schedule]:
        """The schedules, and what the other settings ask for by the clock."""
        if self.keep_answers_days is None and self.keep_pictures_days is None:
            return self.schedules
        return [*self.schedules, Schedule(cron="0 * * * *", kind="expire")]

    def quota_of(self, collection: str) -> Quota:
        return self.quotas.get(collection) or self.quotas.get("*") or Quota()

    @property
    def database(self) -> str:
        if self.database_url:
            return self.database_url
        return f"sqlite:///{self.data.expanduser().resolve() / 'rag_owl.db'}"


def read_settings(**given: Any) -> Settings:
    """Arguments (those that are not None) over the environment over the defaults.

    Raises `InvalidSettings` with the name, the reason and, for an unknown name, the nearest one.
    """
    known = {name.upper() for name in Settings.model_fields}
    for name in os.environ:
        bare = name.upper().removeprefix(PREFIX)
        if name.upper() in _OTHER_NAMES or not name.upper().startswith(PREFIX):
            continue
        if bare not in known:
            # Without what all have in common, or anything would be like something.
            near = difflib.get_close_matches(bare, known, 1)
            hint = f"; did you mean {PREFIX}{near[0]}?" if near else "."
            raise InvalidSettings(f"unknown setting {name}{hint} Unset it or correct its name.")
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        field, *inside = (str(part) for part in first["loc"])
        shown = ".".join([PREFIX + field.upper() if given.get(field) is None else field, *inside])
        # What may hold a key or a password is not repeated.
        secret = field in ("remote_models", "database_url")
        given_value = "" if secret else f" (given: {first['input']!r})"
        reason = first["msg"].removeprefix("Value error, ")
        raise InvalidSettings(f"setting {shown}: {reason}{given_value}") from None
    except SettingsError as error:
        field = next((f for f in Settings.model_fields if f'"{f}"' in str(error)), "")
        raise InvalidSettings(f"setting {PREFIX}{field.upper()} is not JSON") from None


def as_environment(settings: Settings) -> dict[str, str]:
    """This process's environment, in which another reads just these settings."""
    environment = {
        name: value for name, value in os.environ.items() if not name.upper().startswith(PREFIX)
    }
    for name, value in settings.model_dump(mode="json").items():
        if value is not None:
            plain = value if isinstance(value, str) else json.dumps(value)
            environment[PREFIX + name.upper()] = plain
    return environment


def as_markdown() -> str:
    """The table of docs/settings.md: `python -m rag_owl.settings > docs/settings.md`."""
    lines = [
        "# Settings",
        "",
        "Arguments of `RagOwl.open(data, …)`, or environment variables. An unknown or unparsable",
        "one stops the start. This page is printed by `python -m rag_owl.settings`.",
        "",
        "| argument | variable | default | what it is |",
        "|---|---|---|---|",
    ]
    for name, field in Settings.model_fields.items():
        default = "" if field.default in (None, "") else f"`{field.default}`"
        variable = f"`{PREFIX}{name.upper()}`"
        lines.append(f"| `{name}` | {variable} | {default} | {field.description} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(as_markdown(), end="")
