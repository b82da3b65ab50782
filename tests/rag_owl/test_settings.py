from __future__ import annotations

import json
from pathlib import Path

import pytest

from rag_owl import settings
from rag_owl.errors import InvalidSettings
from rag_owl.model import registry
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
    monkeypatch.delenv("RAG_OWL_BATCHSIZE")
    monkeypatch.setenv("RAG_OWL_FLAVOUR", "3")
    with pytest.raises(InvalidSettings, match=r"unknown setting RAG_OWL_FLAVOUR\. Unset it"):
        read_settings()


@pytest.mark.parametrize(("name", "value"), [("K", "many"), ("INDEX_TYPE", "fast"), ("K", "0")])
def test_an_unparsable_setting_stops_the_start(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"RAG_OWL_{name}", value)
    with pytest.raises(InvalidSettings, match=f"RAG_OWL_{name}.*{value}"):
        read_settings()


def test_the_least_pixels_are_no_more_than_the_most() -> None:
    assert read_settings(source_min_pixels=100_000).source_min_pixels == 100_000
    assert read_settings(source_pixels=784).source_min_pixels == 3_136  # as published
    with pytest.raises(InvalidSettings, match="no more than source_pixels, 200704"):
        read_settings(source_min_pixels=200_705)
    with pytest.raises(InvalidSettings, match="no more than question_pixels, 5000"):
        read_settings(question_pixels=5_000, question_min_pixels=5_001)


def test_an_unknown_argument_is_named() -> None:
    with pytest.raises(InvalidSettings, match="modle"):
        read_settings(modle="sentences")


def test_the_database_lies_in_the_data_folder(tmp_path: Path) -> None:
    assert read_settings(data=tmp_path).database == f"sqlite:///{tmp_path}/rag_owl.db"
    url = "postgresql+psycopg://localhost/owl"
    for given in (url, "postgresql://localhost/owl", "postgres://localhost/owl"):
        assert read_settings(database_url=given).database == url


REMOTE = {"base_url": "http://gpu-7:8000/v1/", "model": "qwen"}


def test_remote_models_are_read_from_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAG_OWL_REMOTE_MODELS", json.dumps({"big": REMOTE}))
    assert read_settings().remote_models["big"].base_url == "http://gpu-7:8000/v1"
    monkeypatch.setenv("RAG_OWL_REMOTE_MODELS", "{big")
    with pytest.raises(InvalidSettings, match="RAG_OWL_REMOTE_MODELS is not JSON"):
        read_settings()


@pytest.mark.parametrize(
    ("name", "changed", "message"),
    [
        ("owl-nano", {}, "cannot name a remote model"),
        ("Big Model", {}, "cannot name a remote model"),
        ("a/b", {}, "cannot name a remote model"),
        ("big", {"api_key": "sk-secret"}, "big.api_key"),
        ("big", {"base_url": "sk-secret"}, "http://host"),
        ("big", {"base_url": "http://me:sk-secret@host/v1"}, "without user"),
        ("big", {"base_url": "http://host/v1?key=sk-secret"}, "without user"),
        ("big", {"base_url": "file:///sk-secret"}, "http://host"),
    ],
)
def test_a_bad_remote_model_is_named_and_no_secret_repeated(
    name: str, changed: dict[str, str], message: str
) -> None:
    with pytest.raises(InvalidSettings, match=message) as raised:
        read_settings(remote_models={name: {**REMOTE, **changed}})
    assert "sk-secret" not in str(raised.value)


def test_no_remote_model_takes_a_bundled_name() -> None:
    assert set(settings._BUNDLED) == set(registry.names())


def test_another_process_reads_the_same_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAG_OWL_K", "9")
    monkeypatch.setenv("PATH_OF_OTHERS", "kept")
    given = read_settings(data="/owls and others", remote_models={"big": REMOTE}, port=0)
    environment = settings.as_environment(given)
    assert environment["PATH_OF_OTHERS"] == "kept"
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert read_settings() == given
