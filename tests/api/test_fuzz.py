"""A short run of schemathesis against the running service; the long one is the same script."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.slow
def test_schemathesis_finds_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.http.fuzz", "--examples", "1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6_000:] + done.stderr[-2_000:]
