"""Who may come: keys, scopes, hosts, origins, rates; what every answer carries."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from rag_owl.api import auth
from rag_owl.api.middleware import _without_port
from rag_owl.errors import DataFolderError, InvalidSettings
from rag_owl.settings import read_settings
from tests.service import bearer, make_key, problem, running


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("access") / "data"


@pytest.fixture(scope="module")
def client(data: Path) -> Iterator[TestClient]:
    """On loopback, where no key exists yet."""
    with running(data) as opened:
        yield opened


@pytest.fixture(scope="module")
def guarded(
    tmp_path_factory: pytest.TempPathFactory, module_on_each_database: None
) -> Iterator[tuple[TestClient, Path]]:
    """Reachable by others: every request needs a key."""
    folder = tmp_path_factory.mktemp("guarded") / "data"
    make_key(folder)
    with running(folder, require_key=True) as opened:
        yield opened, folder


# --- keys -----------------------------------------------------------------------------------------


def test_loopback_needs_no_key_and_ignores_any_while_none_exists(client: TestClient) -> None:
    assert client.get("/v1/collections").status_code == 200
    assert client.get("/v1/collections", headers=bearer("owl_wrong")).status_code == 200
    for other in ("Basic dXNlcjpwYXNz", "Bearer ", "nonsense"):
        answer = client.get("/v1/collections", headers={"Authorization": other})
        assert answer.status_code == 200, other


@pytest.mark.usefixtures("module_on_each_database")
def test_once_a_key_exists_a_wrong_one_is_refused_everywhere(tmp_path: Path) -> None:
    with running(tmp_path / "data") as client:
        made = client.post("/v1/keys", json={"name": "x", "scopes": ["ask"]}).json()
        answer = client.get("/v1/collections", headers=bearer("owl_wrong"))
        problem(answer, 401, "Authorization")
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert client.get("/v1/collections").status_code == 200  # still loopback
        assert client.get("/v1/collections", headers=bearer(made["key"])).status_code == 200
        assert client.delete(f"/v1/keys/{made['id']}").status_code == 200
        # Nobody else's key is wrong now, and still this one must not open anything by itself.
        assert client.get("/v1/collections").status_code == 200


@pytest.mark.parametrize(
    "header", ["Basic b3dsOm93bA==", "Bearer", "Bearer ", "owl_x", "bearer\towl_x", "Bearer \x00"]
)
def test_a_key_in_the_wrong_place_or_form(guarded: tuple[TestClient, Path], header: str) -> None:
    answer = guarded[0].get("/v1/collections", headers={"Authorization": header.strip("\x00")})
    problem(answer, 401, "Authorization")


def test_a_key_as_query_or_other_header_is_no_key(guarded: tuple[TestClient, Path]) -> None:
    client, folder = guarded
    key = make_key(folder)
    for url, headers in (
        (f"/v1/collections?api_key={key}", {}),
        (f"/v1/collections?access_token={key}", {}),
        ("/v1/collections", {"X-API-Key": key}),
        ("/v1/collections", {"Cookie": f"key={key}"}),
    ):
        problem(client.get(url, headers=headers), 401, "Authorization")


def test_without_a_key_nothing_is_told(guarded: tuple[TestClient, Path]) -> None:
    client, _ = guarded
    document = client.get("/openapi.json").json()
    for path, methods in document["paths"].items():
        for method in set(methods) & {"get", "post", "put", "delete"}:
            url = re.sub(r"\{\w+\}", "x", path)
            if url not in ("/healthz", "/readyz"):
                assert client.request(method, url).status_code == 401, (method, url)


def test_scopes(guarded: tuple[TestClient, Path]) -> None:
    client, folder = guarded
    ask, ingest, admin = (make_key(folder, scope) for scope in ("ask", "ingest", "admin"))
    new = {"json": {"name": "made"}}
    assert client.post("/v1/collections", **new, headers=bearer(ingest)).status_code == 201
    problem(client.post("/v1/collections", **new, headers=bearer(ask)), 403, "Authorization")
    problem(client.get("/v1/collections", headers=bearer(ingest)), 403, "Authorization")
    problem(client.get("/v1/keys", headers=bearer(ask)), 403, "Authorization")
    for url in ("/v1/keys", "/v1/collections", "/metrics"):
        assert client.get(url, headers=bearer(admin)).status_code == 200, url


def test_figures_need_an_unlimited_admin_where_others_come(
    guarded: tuple[TestClient, Path],
) -> None:
    client, folder = guarded
    problem(client.get("/metrics"), 401, "Authorization")
    problem(client.get("/metrics", headers=bearer(make_key(folder, "ask"))), 403, "Authorization")
    limited = make_key(folder, "admin", only=["a"])
    problem(client.get("/metrics", headers=bearer(limited)), 403, "Authorization")


def test_a_revoked_key_opens_nothing_from_the_next_request_on(
    guarded: tuple[TestClient, Path],
) -> None:
    client, folder = guarded
    admin = bearer(make_key(folder, "admin"))
    made = client.post("/v1/keys", json={"name": "x", "scopes": ["ask"]}, headers=admin).json()
    assert client.get("/v1/collections", headers=bearer(made["key"])).status_code == 200
    assert client.delete(f"/v1/keys/{made['id']}", headers=admin).json()["revoked_at"]
    problem(client.get("/v1/collections", headers=bearer(made["key"])), 401, "Authorization")


def test_keys_are_listed_page_by_page(guarded: tuple[TestClient, Path]) -> None:
    client, data = guarded
    admin = bearer(make_key(data, "admin"))
    for number in range(3):
        client.post("/v1/keys", json={"name": f"k{number}", "scopes": ["ask"]}, headers=admin)
    whole = client.get("/v1/keys", headers=admin).json()["data"]
    found: list[str] = []
    cursor = ""
    while cursor is not None:
        page = client.get(f"/v1/keys?limit=2{cursor}", headers=admin).json()
        assert len(page["data"]) <= 2
        found += [each["id"] for each in page["data"]]
        cursor = page["next_cursor"] and f"&cursor={page['next_cursor']}"
    assert found == [each["id"] for each in whole]
    assert len(found) > 4
    problem(client.get("/v1/keys?cursor=nonsense", headers=admin), 422, "cursor")


def test_a_key_is_shown_once(guarded: tuple[TestClient, Path]) -> None:
    client, folder = guarded
    admin = bearer(make_key(folder, "admin"))
    made = client.post("/v1/keys", json={"name": "y", "scopes": ["ask"]}, headers=admin).json()
    listed = client.get("/v1/keys", headers=admin).text
    assert made["id"] in listed
    assert made["key"] not in listed
    assert "hash" not in listed


# --- starting -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [{"host": "0.0.0.0"}, {"host": "::"}, {"host": "192.168.1.5"}, {"allowed_hosts": "owl.org"},
     {"require_key": True}],
)  # fmt: skip
def test_where_others_come_a_key_comes_first(tmp_path: Path, settings: dict[str, object]) -> None:
    with pytest.raises(DataFolderError, match="keys create"), running(tmp_path / "d", **settings):
        pass
    make_key(tmp_path / "d", "ask")
    with running(tmp_path / "d", **settings) as client:
        host = {"Host": "owl.org"}
        problem(client.get("/v1/collections", headers=host), 401, "Authorization")


@pytest.mark.parametrize(
    ("host", "is_loopback"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("localhost", True), ("::1", True),
     ("[::1]", True), ("0.0.0.0", False), ("::", False), ("10.0.0.1", False),
     ("localhost.evil.org", False), ("", False)],
)  # fmt: skip
def test_what_is_loopback(host: str, is_loopback: bool) -> None:
    assert auth.is_loopback(host) is is_loopback


@pytest.mark.parametrize(
    "settings",
    [{"key_rate": "often"}, {"address_rate": "1/fortnight"}, {"rate_storage": "nowhere://"}],
)
def test_rates_that_cannot_be_read_stop_the_start(tmp_path: Path, settings: dict[str, str]) -> None:
    from rag_owl.api.app import create_app

    name = next(iter(settings))
    with pytest.raises(InvalidSettings, match=name):
        create_app(read_settings(data=tmp_path, **settings))


# --- hosts and origins ----------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1:1", "[::1]:8000"])
def test_known_names(client: TestClient, host: str) -> None:
    assert client.get("/healthz", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.org", "localhost.evil.org", "127.0.0.1.evil.org", "evil.org:8000", "", "::1"]
)
def test_unknown_names_are_refused(client: TestClient, host: str) -> None:
    problem(client.get("/healthz", headers={"Host": host}), 421, "Host")


@pytest.mark.parametrize(
    ("host", "name"),
    [("a:80", "a"), ("a", "a"), ("[::1]:80", "[::1]"), ("[::1]", "[::1]"), ("::1", "::1"),
     ("a:b", "a:b")],
)  # fmt: skip
def test_the_port_is_no_part_of_the_name(host: str, name: str) -> None:
    assert _without_port(host) == name


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.org"},
        {"Origin": "http://localhost:9999"},
        {"Origin": "null"},
        {"Origin": "http://["},
        {"Origin": "http://localhost.evil.org"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_pages_of_others_change_nothing(client: TestClient, headers: dict[str, str]) -> None:
    made = client.post("/v1/collections", json={"name": "evil"}, headers=headers)
    problem(made, 403, "Origin")
    assert client.get("/v1/collections/evil").status_code == 404


@pytest.mark.parametrize(
    "headers", [{}, {"Origin": "http://localhost"}, {"Sec-Fetch-Site": "same-origin"}]
)
def test_our_own_page_may(client: TestClient, headers: dict[str, str]) -> None:
    made = client.post("/v1/collections", json={"name": "good"}, headers=headers)
    assert made.status_code in (200, 201)


def test_other_sites_read_nothing_unless_they_are_named(tmp_path: Path, client: TestClient) -> None:
    evil = {"Origin": "https://evil.org"}
    assert not _cors(client.get("/v1/collections", headers=evil).headers)
    asked = {**evil, "Access-Control-Request-Method": "POST"}
    assert not _cors(client.options("/v1/collections", headers=asked).headers)
    with running(tmp_path / "data", cors_origins="https://good.org, https://too.org") as open_one:
        good = {"Origin": "https://good.org"}
        found = open_one.get("/v1/collections", headers=good).headers
        assert found["access-control-allow-origin"] == "https://good.org"
        assert "access-control-allow-credentials" not in found
        assert not _cors(open_one.get("/v1/collections", headers=evil).headers)
        made = open_one.post("/v1/collections", json={"name": "a"}, headers=good)
        assert made.status_code == 201


def _cors(headers: object) -> list[str]:
    return [name for name in headers if name.startswith("access-control-allow")]  # type: ignore[attr-defined]


# --- rates ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("module_on_each_database")
def test_a_key_that_asks_too_often_is_told_when_to_come_again(tmp_path: Path) -> None:
    key, other = make_key(tmp_path / "data", "ask"), make_key(tmp_path / "data", "ask")
    with running(tmp_path / "data", key_rate="5/day") as client:
        statuses = [client.get("/v1/collections", headers=bearer(key)) for _ in range(7)]
        assert [each.status_code for each in statuses] == [200] * 5 + [429] * 2
        problem(statuses[-1], 429)
        assert 1 <= int(statuses[-1].headers["retry-after"]) <= 86_401
        assert client.get("/v1/collections", headers=bearer(other)).status_code == 200
        assert client.get("/healthz").status_code == 200


def test_an_address_that_asks_too_often(tmp_path: Path) -> None:
    make_key(tmp_path / "data", "ask")
    with running(tmp_path / "data", address_rate="5/day", require_key=True) as client:
        wrong = bearer("owl_guessed")
        statuses = [client.get("/v1/collections", headers=wrong).status_code for _ in range(7)]
        assert statuses == [401] * 5 + [429] * 2  # guessing keys is counted too
        assert client.get("/healthz").status_code == 200


@pytest.mark.parametrize(
    ("address", "counted_as"),
    [("10.1.2.3", "10.1.2.3"), ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
     ("::ffff:10.1.2.3", "10.1.2.3"), ("fe80::1%eth0", "fe80::/64"), ("unix", "unix")],
)  # fmt: skip
def test_one_network_counts_as_one(address: str, counted_as: str) -> None:
    from rag_owl.api.limits import _network

    assert _network(address) == counted_as


# --- what every answer carries --------------------------------------------------------------------


@pytest.mark.parametrize("url", ["/healthz", "/v1/collections", "/nothing", "/v1/jobs/x"])
def test_security_headers(client: TestClient, url: str) -> None:
    headers = client.get(url).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "server" not in headers


def test_a_request_keeps_its_id_where_it_is_harmless(client: TestClient) -> None:
    given = client.get("/healthz", headers={"X-Request-Id": "my-id.1"})
    assert given.headers["x-request-id"] == "my-id.1"
    for bad in ("a b", "x" * 65, "<script>", "a\\nb"):
        made = client.get("/healthz", headers={"X-Request-Id": bad}).headers["x-request-id"]
        assert re.fullmatch("[0-9a-f]{32}", made)


def test_no_secret_and_no_question_in_the_log(
    guarded: tuple[TestClient, Path], caplog: pytest.LogCaptureFixture
) -> None:
    client, folder = guarded
    key = make_key(folder)
    with caplog.at_level(logging.DEBUG):
        client.post("/v1/collections", json={"name": "logged"}, headers=bearer(key))
        client.get("/v1/collections", headers=bearer("owl_wrong-but-secret"))
        client.get("/v1/collections?cursor=hidden-words", headers=bearer(key))
        client.post(
            "/v1/collections/logged/search", json={"query": "private words"}, headers=bearer(key)
        )
    ours = [record for record in caplog.records if record.name.startswith(("rag_owl", "uvicorn"))]
    lines = "\n".join(record.getMessage() for record in ours)
    assert "/v1/collections" in lines  # it was logged at all
    for secret in (key, "wrong-but-secret", "private words", "hidden-words"):
        assert secret not in lines
