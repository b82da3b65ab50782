"""The command line, run in the tests' own process."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from rag_owl.api.cli import main


class Shell:
    """Runs `rag-owl …` in this process; every call is one command."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], data: Path
    ) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys
        monkeypatch.setenv("RAG_OWL_DATA", str(data))
        monkeypatch.setenv("RAG_OWL_TEXT_EMBEDDER", "hashing")
        monkeypatch.setenv("NO_COLOR", "1")

    def run(self, *arguments: str | Path) -> tuple[int, str, str]:
        """(exit status, standard output, standard error)."""
        self._monkeypatch.setattr(sys, "argv", ["rag-owl", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        written = self._capsys.readouterr()
        return int(stop.value.code or 0), written.out, written.err

    def json(self, *arguments: str | Path) -> Any:
        status, out, err = self.run(*arguments, "--json")
        assert status == 0, err
        return json.loads(out)
