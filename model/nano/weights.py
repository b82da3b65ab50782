"""The trained files beside this module: written once after training, checked at every load."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rag_owl.errors import InvalidCheckpoint
from rag_owl.model.nano import minilm
from rag_owl.model.nano.eyes import Eyes, EyesConfig
from rag_owl.model.nano.reader import Reader, ReaderConfig

FOLDER = Path(__file__).parent / "weights"
EVIDENCE = "support.json"  # thresholds of the checks, with the curves they were read off
FROZEN = "words.weight"  # never trained: it comes from the MiniLM package


def manifest(folder: Path = FOLDER) -> dict[str, Any]:
    """What was trained and how it is calibrated. Raises `InvalidCheckpoint`."""
    path = folder / "manifest.json"
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidCheckpoint(
            f"{path} is missing or damaged: reinstall rag-owl, or train owl-nano (docs/owl-nano.md)"
        ) from error
    return found


def evidence(folder: Path = FOLDER) -> dict[str, Any] | None:
    """What `benchmarks.quality.calibrate` set for just this reader and these eyes, or None where it
    has not yet.

    Raises `InvalidCheckpoint`.
    """
    path = folder / EVIDENCE
    if not path.exists():
        return None
    try:
        stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        files = manifest(folder)["files"]
        fits = stored["reader"] == files["reader.safetensors"]
        # Older folders name the reader alone: what trains a reader leaves the eyes as they are.
        fits &= stored.get("eyes", files["eyes.safetensors"]) == files["eyes.safetensors"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidCheckpoint(f"{path} is damaged: reinstall rag-owl") from error
    return stored if fits else None


def _read(folder: Path, name: str) -> dict[str, Tensor]:
    """The tensors of one file in float32, after its sha256 was compared."""
    from safetensors.torch import load

    path = folder / name
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidCheckpoint(f"{path} is missing: reinstall rag-owl") from error
    expected = manifest(folder)["files"].get(name)
    digest = hashlib.sha256(data).hexdigest()
    if digest != expected:
        raise InvalidCheckpoint(
            f"{path} has sha256 {digest}, not {expected}: the file is damaged, reinstall rag-owl"
        )
    return {k: v.float() if v.is_floating_point() else v for k, v in load(data).items()}


def load_eyes(folder: Path = FOLDER) -> Eyes:
    eyes = Eyes(_config(EyesConfig, manifest(folder)["eyes"]))
    _fill(eyes, _read(folder, "eyes.safetensors"), folder)
    return eyes.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[no-any-return, call-overload]


def load_reader(folder: Path = FOLDER) -> Reader:
    reader = Reader(_config(ReaderConfig, manifest(folder)["reader"]))
    tensors = _read(folder, "reader.safetensors")
    tensors[FROZEN] = minilm.weights()["embeddings.word_embeddings.weight"]
    _fill(reader, tensors, folder)
    return reader.eval().requires_grad_(False)


def _fill(model: nn.Module, tensors: dict[str, Tensor], folder: Path) -> None:
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise InvalidCheckpoint(
            f"{folder} holds weights of another version of owl-nano: reinstall rag-owl, or train "
            f"them again (docs/training.md)"
        ) from error


def _config(kind: type[Any], values: dict[str, Any]) -> Any:
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def write(folder: Path, eyes: Eyes, reader: Reader, calibration: dict[str, float]) -> None:
    """Both models in fp16 and their manifest. What was not trained is left out."""
    from safetensors.torch import save

    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for name, model in (("eyes.safetensors", eyes), ("reader.safetensors", reader)):
        tensors = {
            k: (v.half() if v.is_floating_point() else v).contiguous()
            for k, v in model.state_dict().items()
            if k != FROZEN
        }
        data = save(tensors)
        (folder / name).write_bytes(data)
        files[name] = hashlib.sha256(data).hexdigest()
    card = {
        "files": files,
        "eyes": asdict(eyes.config),
        "reader": asdict(reader.config),
        "calibration": calibration,
    }
    text = json.dumps(card, indent=2, sort_keys=True) + "\n"
    (folder / "manifest.json").write_text(text, encoding="utf-8")
