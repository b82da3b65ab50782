"""Published checkpoint files to tensors: safetensors or `.bin`, whole or in shards.

Nothing here runs code that comes with a model: `.bin` files are read with `weights_only=True`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rag_owl.errors import InvalidCheckpoint, ModelNotFound, RagOwlError

INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
WHOLE = ("model.safetensors", "weights.safetensors", "pytorch_model.bin")
# The files of a published repository that are ours to read: numbers and text, never code.
DOWNLOADS = [
    "*.json",
    "*.safetensors",
    "pytorch_model*.bin",
    "merges.txt",
    "tokenizer.model",
    "*.jinja",
]


def read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InvalidCheckpoint(f"{path} is missing; a model folder needs it.") from None
    except (OSError, ValueError) as error:
        raise InvalidCheckpoint(f"{path} cannot be read as JSON: {error}.") from None
    if not isinstance(value, dict):
        raise InvalidCheckpoint(f"{path} must hold a JSON object.")
    return value


@contextmanager
def built_from(folder: Path, family: str) -> Iterator[None]:
    """Around what builds a model as `folder` describes it: what goes wrong names the file.

    family: in words. Raises InvalidCheckpoint.
    """
    try:
        yield
    except InvalidCheckpoint as error:
        said = str(error)
        raise InvalidCheckpoint(said if str(folder) in said else f"{folder}: {said}") from None
    except (RagOwlError, MemoryError, ImportError):
        raise
    except Exception as error:  # transformers' configs raise classes of their own
        said = " ".join(str(error).split())
        if "allocate memory" in said:  # torch's own is a RuntimeError
            raise
        raise InvalidCheckpoint(
            f"{folder / 'config.json'} describes no {family} ({type(error).__name__}: {said})."
        ) from error


def find_folder(name: str | Path) -> Path:
    """A folder as it is, or a hub id fetched into the hub's own cache.

    Raises ModelNotFound: neither a folder, nor a model that the hub gives us.
    """
    folder = Path(name)
    if folder.is_dir():
        return folder
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(name)):
        raise ModelNotFound(
            f"no model folder {name}; give a folder with config.json and weights, or a hub id "
            "like mPLUG/mPLUG-Owl3-2B-241014."
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(name), allow_patterns=DOWNLOADS))
    except Exception as error:
        raise ModelNotFound(
            f"{name} is no folder here and could not be fetched from the hub "
            f"({type(error).__name__}). Check the name and the network, or give a folder."
        ) from error


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the tensors, all of which exist.

    Raises InvalidCheckpoint: no weights, or shards missing that the index names.
    """
    for index in INDEXES:
        if (folder / index).is_file():
            names = read_json(folder / index).get("weight_map")
            if not isinstance(names, dict) or not names:
                raise InvalidCheckpoint(f"{folder / index} has no weight_map.")
            files = [folder / name for name in sorted(set(names.values()))]
            missing = [file.name for file in files if not file.is_file()]
            if missing:
                raise InvalidCheckpoint(f"{folder}: shards missing: {', '.join(missing)}.")
            return files
    for name in WHOLE:
        if (folder / name).is_file():
            return [folder / name]
    raise InvalidCheckpoint(f"{folder} holds no weights: none of {', '.join(INDEXES + WHOLE)}.")


def read_tensors(files: list[Path]) -> Iterator[tuple[str, Tensor]]:
    """Every (name, tensor), memory-mapped where the format allows it.

    Raises InvalidCheckpoint: a file that is truncated, damaged or holds more than tensors.
    """
    from safetensors import SafetensorError, safe_open

    for file in files:
        try:
            if file.suffix == ".safetensors":
                with safe_open(file, framework="pt") as tensors:
                    for name in tensors.keys():  # noqa: SIM118  # no dict
                        yield name, tensors.get_tensor(name)
            else:
                yield from torch.load(
                    file, map_location="cpu", weights_only=True, mmap=True
                ).items()
        except (SafetensorError, OSError, RuntimeError, ValueError, EOFError) as error:
            raise _damaged(file, error) from None
        except Exception as error:  # pickle's own errors share no class
            if type(error).__module__ in ("pickle", "_pickle", "torch.serialization"):
                raise _damaged(file, error) from None
            raise


def stored_in(tensors: Mapping[str, Tensor]) -> torch.dtype:
    """In which floating numbers the largest of them is stored."""
    floating = [t for t in tensors.values() if isinstance(t, Tensor) and t.is_floating_point()]
    return max(floating, key=Tensor.numel).dtype if floating else torch.float32


def tensor_names(folder: Path) -> list[str]:
    """The names of a folder's tensors, without reading the tensors where the format allows it.

    Raises InvalidCheckpoint.
    """
    for index in INDEXES:
        if (folder / index).is_file():
            weight_files(folder)  # the shards must be there too
            return list(read_json(folder / index)["weight_map"])
    return [name for name, _ in read_tensors(weight_files(folder))]


def _damaged(file: Path, error: Exception) -> InvalidCheckpoint:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return InvalidCheckpoint(
        f"{file} is truncated or damaged ({reason}). Fetch it again and compare its size."
    )


def assign(
    model: nn.Module, tensors: Mapping[str, Tensor], *, optional: frozenset[str] = frozenset()
) -> None:
    """Put the tensors in place of the model's, which may be on the meta device.

    Raises InvalidCheckpoint with the whole list of what is missing, unexpected or misshapen.
    """
    wanted: dict[str, Any] = dict(model.state_dict())
    missing = sorted(set(wanted) - set(tensors) - optional)
    unexpected = sorted(set(tensors) - set(wanted))
    wrong = [
        f"{name}: {tuple(tensors[name].shape)} instead of {tuple(wanted[name].shape)}"
        for name in sorted(set(wanted) & set(tensors))
        if tensors[name].shape != wanted[name].shape
    ]
    problems = [
        f"{len(names)} {what}: {_some(names)}"
        for what, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of wrong shape", wrong),
        )
        if names
    ]
    if problems:
        raise InvalidCheckpoint(
            "the tensors do not fit the model that config.json describes; " + "; ".join(problems)
        )
    model.load_state_dict(dict(tensors), strict=False, assign=True)


def _some(names: list[str], most: int = 20) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
