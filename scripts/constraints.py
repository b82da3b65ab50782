"""Print docker/constraints.txt: the versions here of all that the images hold.

Run where the tests pass: `python scripts/constraints.py > docker/constraints.txt`.
"""

from __future__ import annotations

import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

EXTRAS = ("postgres", "s3", "milvus", "redis", "otel")  # as in the Dockerfile
REPLACED = ("faiss-cpu", "faiss-gpu")  # pinned in the Dockerfile: one takes the other's place


def versions() -> dict[str, str]:
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())[
        "project"
    ]
    waiting = list(project["dependencies"])
    for extra in EXTRAS:
        waiting += project["optional-dependencies"][extra]
    found: dict[str, str] = {}
    seen = set()
    while waiting:
        needed = Requirement(waiting.pop())
        name = canonicalize_name(needed.name)
        if (name, frozenset(needed.extras)) in seen:
            continue
        seen.add((name, frozenset(needed.extras)))
        try:
            installed = distribution(name)
        except PackageNotFoundError:
            print(f"{name} is not installed here", file=sys.stderr)
            continue
        found[name] = installed.version.partition("+")[0]  # of torch: without its build
        for text in installed.requires or ():
            each = Requirement(text)
            extras = ("", *needed.extras)
            if each.marker is None or any(each.marker.evaluate({"extra": e}) for e in extras):
                waiting.append(text)
    return {name: found[name] for name in sorted(found) if name not in REPLACED}


if __name__ == "__main__":
    print("# The versions that the tests ran with: printed by scripts/constraints.py.")
    for name, version in versions().items():
        print(f"{name}=={version}")
