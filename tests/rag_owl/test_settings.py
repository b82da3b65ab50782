from __future__ import annotations

from pathlib import Path

import pytest

from rag_owl.errors import InvalidSettings
from rag_owl.settings import read_settings


def test_arguments_win_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAG_OWL_K", "7")
    assert read_settings().k == 7
    assert read_settings(k=3).k == 3
    assert read_settings(k=None).k == 7


def test_an_unknown_setting_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAG_OWL_BATCHSIZE", "3")
    with pytest.raises(InvalidSettings, match="RAG_OWL_BATCHSIZE; did you mean RAG_OWL_BATCH_SIZE"):
        read_settings()


@pytest.mark.parametrize(("name", "value"), [("K", "many"), ("INDEX_TYPE", "fast"), ("K", "0")])
def test_an_unparsable_setting_stops_the_start(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"RAG_OWL_{name}", value)
    with pytest.raises(InvalidSettings, match=f"RAG_OWL_{name}.*{value}"):
        read_settings()


def test_an_unknown_argument_is_named() -> None:
    with pytest.raises(InvalidSettings, match="modle"):
        read_settings(modle="sentences")


def test_the_database_lies_in_the_data_folder(tmp_path: Path) -> None:
    assert read_settings(data=tmp_path).database == f"sqlite:///{tmp_path}/rag_owl.db"
    url = "postgresql+psycopg://localhost/owl"
    assert read_settings(database_url=url).database == url
