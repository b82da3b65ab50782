"""docker-compose.yml and the Dockerfile: each service's own command and environment, as processes.

No Docker engine is needed. What compose would do (defaults, variables, names of hosts, volumes) is
done here; PostgreSQL is a real one.
"""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer
import yaml
from sqlalchemy import make_url

from rag_owl.settings import PREFIX, Settings
from tests.service import PATIENCE

ROOT = Path(__file__).parent.parent
OURS = ("migrate", "api", "worker", "api-gpu", "worker-gpu")
PASSWORD = "not-the-real-one"
_INNER = r"\$\{(\w+)(?:(:?[-?])([^${}]*))?\}"


class Unset(Exception):
    """Compose would refuse to start."""


def interpolated(value: Any, given: Mapping[str, str]) -> Any:
    """`${NAME}`, `${NAME:-default}` and `${NAME:?message}`, also within each other."""
    if isinstance(value, dict):
        return {key: interpolated(each, given) for key, each in value.items()}
    if isinstance(value, list):
        return [interpolated(each, given) for each in value]
    if not isinstance(value, str):
        return value

    def replace(found: re.Match[str]) -> str:
        name, kind, rest = found.groups()
        if given.get(name):
            return given[name]
        if kind and "?" in kind:
            raise Unset(name)
        return rest or ""

    while (changed := re.sub(_INNER, replace, value)) != value:
        value = changed
    return value


@pytest.fixture(scope="module")
def raw() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return loaded


@pytest.fixture(scope="module")
def services(raw: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = interpolated(raw["services"], {"POSTGRES_PASSWORD": PASSWORD})
    return found


def test_services_and_profiles_are_those_that_the_docs_name(services: dict[str, Any]) -> None:
    profiles = {name: service.get("profiles", []) for name, service in services.items()}
    assert [name for name, of in profiles.items() if not of] == [
        "postgres",
        "migrate",
        "api",
        "worker",
    ]
    assert {name for name, of in profiles.items() if of == ["gpu"]} == {"api-gpu", "worker-gpu"}
    assert {name for name, of in profiles.items() if of == ["milvus"]} == {
        "etcd",
        "minio",
        "milvus",
    }
    for name in ("api-gpu", "worker-gpu"):
        (device,) = services[name]["deploy"]["resources"]["reservations"]["devices"]
        assert device["driver"] == "nvidia"
        assert services[name]["image"].endswith(":gpu")


def test_every_service_is_pinned_limited_and_looked_after(
    services: dict[str, Any], raw: dict[str, Any]
) -> None:
    for name, service in services.items():
        image, _, tag = service["image"].rpartition(":")
        assert image, name
        assert tag != "latest", name
        assert service["deploy"]["resources"]["limits"]["memory"], name
        assert service.get("restart"), name
        if name != "migrate":  # it ends
            assert service["healthcheck"]["test"][0] == "CMD", name
        for volume in service.get("volumes", ()):
            assert volume.split(":")[0] in raw["volumes"], name
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), f"{name} is open to everybody"
    for name in OURS:
        assert services[name]["read_only"]
        assert services[name]["cap_drop"] == ["ALL"]


def test_no_secret_is_in_the_file_and_none_is_made_up(raw: dict[str, Any]) -> None:
    with pytest.raises(Unset, match="POSTGRES_PASSWORD"):
        interpolated(raw, {})
    for name, service in raw["services"].items():
        for variable, value in service.get("environment", {}).items():
            if re.search("PASSWORD|SECRET|_KEY", variable) and "ACCESS_KEY_ID" not in variable:
                assert value is None or value.startswith("${"), (name, variable)


def test_every_setting_exists_and_every_command_too(services: dict[str, Any]) -> None:
    from rag_owl.api.cli import app

    known = {PREFIX + name.upper() for name in Settings.model_fields}
    commands = typer.main.get_command(app)
    for name in OURS:
        for variable in services[name]["environment"]:
            assert variable in known or not variable.startswith(PREFIX), (name, variable)
        command, *arguments = services[name]["command"]
        parsed = commands.get_command(None, command)  # type: ignore[attr-defined, arg-type]
        parsed.make_context(command, list(arguments))  # raises for an unknown option


def test_the_images_run_as_nobody_in_particular_with_pinned_versions() -> None:
    text = (ROOT / "Dockerfile").read_text()
    stages = re.split(r"(?m)^FROM ", text)[1:]
    names = [stage.split("\n")[0].split(" AS ")[1] for stage in stages]
    assert names[-2:] == ["gpu", "cpu"]
    for stage in stages[-2:]:
        assert "\nUSER owl\n" in stage
        assert '\nENTRYPOINT ["rag-owl"]\n' in stage
    for stage in stages:
        assert re.match(r"(wheel|base|python:\d+\.\d+\.\d+-\w+-\w+) AS ", stage)
    for install in re.findall(r"pip install ([^&|\n\\]*)", text):
        for word in shlex.split(install):
            plain = re.fullmatch(r"[a-z][a-z0-9-]+", word)
            assert not plain or "constraints" in install, f"{word} is not pinned"
    pinned = (ROOT / "docker" / "constraints.txt").read_text()
    assert all(re.fullmatch(r"#.*|[\w.-]+==[\w.!+]+", line) for line in pinned.splitlines())
    copied = re.findall(r"(?m)^COPY (?!--from)(\S+)", text)
    assert copied == [".", "docker/constraints.txt"]


def test_the_constraints_cover_what_the_images_install() -> None:
    pinned = {
        line.split("==")[0] for line in (ROOT / "docker/constraints.txt").read_text().splitlines()
    }
    project = (ROOT / "pyproject.toml").read_text().split("dependencies = [")[1].split("\n]")[0]
    for line in project.splitlines():
        if name := re.match(r'\s*"([A-Za-z0-9_-]+)', line):
            plain = name[1].lower().replace("_", "-")
            assert plain in pinned or plain == "faiss-cpu", plain


# --- the services as processes -------------------------------------------------------------------


class Compose:
    """Runs a service's own command with its own environment; only places are other ones."""

    def __init__(self, services: dict[str, Any], data: Path, postgres: str, port: int) -> None:
        self._services = services
        self._data = data
        self._postgres = make_url(postgres)
        self._port = str(port)

    def _place(self, text: str) -> str:
        text = text.replace("/data", str(self._data)) if text.startswith("/data") else text
        if text.startswith("postgresql+psycopg://rag_owl@postgres:5432/"):
            text = self._postgres.render_as_string(hide_password=False)
        return text.replace("8000", self._port).replace("0.0.0.0", "127.0.0.1")

    def environment(self, name: str) -> dict[str, str]:
        kept = {"PATH", "HOME", "LANG", "LD_LIBRARY_PATH"}
        inherited = {key: value for key, value in os.environ.items() if key in kept}
        given = self._services[name]["environment"]
        # Without a value: handed on where it is set, and it is set nowhere here.
        own = {key: self._place(str(value)) for key, value in given.items() if value}
        return inherited | {"OMP_NUM_THREADS": "1"} | own

    def argv(self, name: str, command: list[str] | None = None) -> list[str]:
        chosen = command or self._services[name]["command"]
        return [sys.executable, "-m", "rag_owl.api.cli", *map(self._place, chosen)]

    def run(self, name: str, *command: str) -> str:
        done = subprocess.run(
            self.argv(name, list(command)),
            env=self.environment(name),
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    @contextmanager
    def up(self, name: str) -> Iterator[subprocess.Popen[bytes]]:
        with (self._data / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                self.argv(name), env=self.environment(name), stdout=log, stderr=log
            )
        try:
            yield process
        finally:
            process.terminate()
            process.wait(300)
        assert process.returncode in (0, -15), (self._data / f"{name}.log").read_text()[-2_000:]

    def is_healthy(self, name: str) -> bool:
        program, *arguments = self._services[name]["healthcheck"]["test"][1:]
        assert program == "python"
        check = [sys.executable, *map(self._place, arguments)]
        try:
            done = subprocess.run(
                check, env=self.environment(name), capture_output=True, timeout=300
            )
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0


@pytest.fixture
def compose(services: dict[str, Any], tmp_path: Path, postgres_url: str) -> Compose:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "data").mkdir()
    made = Compose(services, tmp_path / "data", postgres_url, port)
    made.url = f"http://127.0.0.1:{port}"  # type: ignore[attr-defined]
    return made


def test_migrate_makes_the_schema_and_does_it_once(compose: Compose) -> None:
    assert "before: none" in compose.run("migrate")
    assert "nothing to do" in compose.run("migrate")
    assert compose.is_healthy("worker")


@pytest.mark.slow
def test_from_an_empty_place_to_a_first_answer(compose: Compose) -> None:
    compose.run("migrate")
    key = compose.run("migrate", "keys", "create", "operator", "--scope", "admin").strip()
    url: str = compose.url  # type: ignore[attr-defined]
    with (
        compose.up("worker") as worker,
        compose.up("api") as api,
        httpx.Client(
            base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=PATIENCE
        ) as http,
    ):
        deadline = time.monotonic() + 400

        def pause() -> None:
            assert time.monotonic() < deadline, httpx.get(f"{url}/readyz", timeout=PATIENCE).text
            assert worker.poll() is None
            assert api.poll() is None
            time.sleep(0.5)

        while not compose.is_healthy("api"):
            pause()
        sent = http.post(
            "/v1/collections/owls/documents",
            files={"files": ("owls.txt", b"Barn owls hunt at night over open meadows.")},
        )
        assert sent.status_code == 202, sent.text
        job = sent.json()["job"]["id"]
        while (state := http.get(f"/v1/jobs/{job}").json())["state"] not in ("done", "failed"):
            pause()
        assert state["state"] == "done", state
        asked = {"collection": "owls", "question": "When do barn owls hunt?"}
        answer = http.post("/v1/answers", json=asked).json()
        assert "night" in answer["text"]
        assert answer["citations"]
        assert httpx.get(f"{url}/v1/collections", timeout=PATIENCE).status_code == 401
