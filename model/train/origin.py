"""What a run was made of: its folder belongs to it, and its result has a name of its own."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from rag_owl.errors import InvalidInput
from rag_owl.model.train.examples import FILE

RUN = "run.json"


def digest_of(data: Path) -> str:
    """Of a folder's examples; their pictures are named by their own. Raises `InvalidInput`."""
    try:
        return hashlib.sha256((data / FILE).read_bytes()).hexdigest()
    except OSError as error:
        raise InvalidInput(
            f"{data / FILE} cannot be read ({error.strerror}): make it with "
            "`rag-owl train make-data`"
        ) from error


def check(folder: Path, about: dict[str, Any]) -> None:
    """That the folder's run, where it holds one, began as this one: it goes on or it had ended.

    Raises `InvalidInput` that names what differs.
    """
    path = folder / RUN
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{path} cannot be read ({error}): give another --out") from error
    other = before if isinstance(before, dict) else {}
    wanted = json.loads(json.dumps(about))  # as it was written: tuples are lists
    if changed := [name for name, value in wanted.items() if other.get(name) != value]:
        raise InvalidInput(
            f"{folder} holds a run with other {', '.join(changed)}: give what it began with, or "
            "another --out"
        )


def begin(folder: Path, about: dict[str, Any]) -> None:
    """The folder belongs to this run from now on. Of several processes the first one writes."""
    if os.environ.get("RANK", "0") != "0" or (folder / RUN).exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    arriving = folder / f"{RUN}.part"
    arriving.write_text(json.dumps(about, indent=2), encoding="utf-8")
    os.replace(arriving, folder / RUN)


def name_of(base: str, recipe: str, digest: str) -> str:
    """What answers of a trained model say that they are by; two runs never share it.

    base: by its own name; digest: of what was learnt, in hexadecimals.
    """
    return f"{base}+{recipe}-{digest[:8]}"
