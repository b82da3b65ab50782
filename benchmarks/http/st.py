"""schemathesis' command `st`, in which one thread at a time parses Python.

CPython 3.11 counts how deep syntax trees are in one place for all threads, and hypothesis, which
reads the source of its own lambdas, runs Python in the middle of that when memory is collected:
another worker's parsing then ends as `SystemError: AST constructor recursion depth mismatch`
(python/cpython#106905), which has nothing to do with the service.
"""

from __future__ import annotations

import ast
import threading
from typing import Any

_parse = ast.parse
_one_at_a_time = threading.RLock()


def parse(*arguments: Any, **options: Any) -> Any:
    with _one_at_a_time:
        return _parse(*arguments, **options)


if __name__ == "__main__":
    ast.parse = parse  # type: ignore[assignment]
    from schemathesis.cli import schemathesis

    schemathesis()
