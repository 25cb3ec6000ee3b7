"""Who may ask the server what: hosts, origins, tokens, roots, sizes."""

import os
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from running import environment_of
from serving import SERVE, SESSIONS, Served, draw, running_server

pytestmark = [pytest.mark.quick, pytest.mark.usefixtures("server_binary")]

TOKEN = "0123456789abcdef-a-token-of-the-tests"  # noqa: S105 - of the tests alone


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, demo_bundle: Path) -> dict[str, str]:
    """What a server is told: one root with pictures, and a link that leads out of it."""
    folder = tmp_path_factory.mktemp("gate")
    draw(folder / "root" / "inside", 2)
    draw(folder / "outside", 1)
    (folder / "root" / "link").symlink_to(folder / "outside")
    (folder / "root" / "a.txt").write_text("no folder")
    return environment_of(folder / "home", demo_bundle, WARMCLIP_ROOTS=str(folder / "root"))


@pytest.fixture(scope="module")
def served(environment: dict[str, str]) -> Iterator[Served]:
    """A server without a token."""
    allowed = ("--allow-host=photos.example", "--allow-host=Other.example:8443")
    with running_server(environment, *allowed) as served:
        yield served


@pytest.fixture(scope="module")
def guarded(environment: dict[str, str]) -> Iterator[Served]:
    """A server with a token, for every address."""
    with running_server(environment | {"WARMCLIP_TOKEN": TOKEN}, "--host", "0.0.0.0") as served:  # noqa: S104 - with a token
        yield served


def problem(answer: httpx.Response, status: int) -> str:
    """The sentence of a problem."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert (body["status"], bool(body["title"])) == (status, True)
    return str(body["detail"])


@pytest.mark.parametrize(
    "host",
    ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "", "[::1", "169.254.0.1"],
)
def test_foreign_host(served: Served, host: str) -> None:
    """A name that was rebound to this address is refused, whatever is asked for."""
    for path in ("/readyz", "/openapi.json", "/api/v1/search?q=a"):
        answer = served.client.get(path, headers={"Host": host})
        assert "--allow-host" in problem(answer, 421)


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:99", "[::1]:80", "photos.example", "other.example"]
)
def test_own_host(served: Served, host: str) -> None:
    """Loopback's names, and those that the server was given, are its own."""
    assert served.client.get("/readyz", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:1"},
        {"Origin": "http://["},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
    ids=lambda headers: " ".join(headers.values()),
)
def test_write_from_a_foreign_page(
    served: Served, environment: dict[str, str], headers: dict[str, str]
) -> None:
    """It is refused, and nothing was begun."""
    order = {"training_directory": environment["WARMCLIP_ROOTS"]}
    before = served.get(SESSIONS)["total"]
    problem(served.client.post(SESSIONS, json=order, headers=headers), 403)
    assert served.get(SESSIONS)["total"] == before


def test_write_from_our_own_page(served: Served, environment: dict[str, str]) -> None:
    """An Origin that is this server's passes, and no answer invites pages of others."""
    origin = str(served.client.base_url).rstrip("/")
    order = {"training_directory": environment["WARMCLIP_ROOTS"]}
    answer = served.client.post(SESSIONS, json=order, headers={"Origin": origin})
    assert answer.status_code == 202
    assert not any(name.startswith("access-control") for name in answer.headers)
    preflight = served.client.options(SESSIONS, headers={"Origin": "http://evil.example"})
    assert not any(name.startswith("access-control") for name in preflight.headers)


def test_token(guarded: Served, environment: dict[str, str]) -> None:
    """Only who shows it is answered; readiness needs none; it is in no log and no argument."""
    order = {"training_directory": environment["WARMCLIP_ROOTS"]}
    for authorization in (
        None, f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN}x", f"Basic {TOKEN}", "Bearer", TOKEN,
    ):  # fmt: skip
        headers = {} if authorization is None else {"Authorization": authorization}
        answer = guarded.client.post(SESSIONS, json=order, headers=headers)
        assert "Bearer TOKEN" in problem(answer, 401)
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        for path in ("/healthz", "/metrics", "/openapi.json", SESSIONS, "/nowhere"):
            problem(guarded.client.get(path, headers=headers), 401)
    assert guarded.client.get("/readyz").status_code == 200
    headers = {"Authorization": f"Bearer {TOKEN}"}
    assert guarded.client.post(SESSIONS, json=order, headers=headers).status_code == 202
    assert TOKEN not in guarded.log.read_text()


def test_own_address(guarded: Served) -> None:
    """A server on every address answers to the one at which the request arrived, and its name."""
    for host in ("127.0.0.1", socket.gethostname()):
        assert guarded.client.get("/readyz", headers={"Host": host}).status_code == 200
    problem(guarded.client.get("/readyz", headers={"Host": "192.0.2.1"}), 421)


@pytest.mark.parametrize(
    ("arguments", "more", "told"),
    [
        (["--host", "0.0.0.0"], {}, "there is no token"),  # noqa: S104 - it is refused
        (["--host", "0.0.0.0"], {"WARMCLIP_TOKEN": "short"}, "at least 16"),  # noqa: S104 - as above
        (["--token-file", "/nowhere"], {}, "cannot be read"),
        (["--host", "192.0.2.1"], {"WARMCLIP_TOKEN": TOKEN}, "cannot listen"),
    ],
)
def test_refused_start(
    environment: dict[str, str], arguments: list[str], more: dict[str, str], told: str
) -> None:
    """It ends with exit code 2 and a sentence, before anything listens."""
    done = subprocess.run(
        [*SERVE, "--port=0", *arguments],
        env=os.environ | environment | more,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert told in " ".join(done.stderr.split())
    assert TOKEN not in done.stderr


def test_extra_is_not_installed(environment: dict[str, str], tmp_path: Path) -> None:
    """The message is the command that installs it."""
    (tmp_path / "uvicorn.py").write_text("raise ModuleNotFoundError('no', name='uvicorn')")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [*SERVE, "--port=0"],
        env=os.environ | environment | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "pip install 'warmclip[serve]'" in " ".join(done.stderr.split())


def test_port_that_is_taken(served: Served, environment: dict[str, str]) -> None:
    """It is bad usage, and the message names the port."""
    port = served.client.base_url.port
    done = subprocess.run(
        [*SERVE, f"--port={port}"],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert f"port {port}" in " ".join(done.stderr.split())


def test_rate(environment: dict[str, str]) -> None:
    """Who asks too often is told when to ask again, before its token is looked at; supervisors
    are not counted.
    """
    with running_server(environment | {"WARMCLIP_TOKEN": TOKEN}, "--rate", "5") as served:
        guess = {"Authorization": "Bearer a-guess"}
        for _ in range(5):
            problem(served.client.get(SESSIONS, headers=guess), 401)
        right = {"Authorization": f"Bearer {TOKEN}"}
        answer = served.client.get(SESSIONS, headers=right)
        assert "--rate" in problem(answer, 429)
        assert 1 <= int(answer.headers["Retry-After"]) <= 12
        large = {"file": b"x" * 5_000_000}
        problem(served.client.post("/api/v1/embed/image", files=large, headers=right), 429)
        for _ in range(9):
            assert served.client.get("/readyz").status_code == 200
            assert served.client.get("/metrics", headers=right).status_code == 200
        problem(served.client.get("/metrics", headers=guess), 429)  # a guess is one anywhere


def test_token_file(environment: dict[str, str], tmp_path: Path) -> None:
    """It stands above the environment's, and one that others may read is told of."""
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}-in-a-file\n")
    file.chmod(0o644)
    with running_server(
        environment | {"WARMCLIP_TOKEN": TOKEN}, "--token-file", str(file)
    ) as served:
        for secret, status in ((TOKEN, 401), (f"{TOKEN}-in-a-file", 200)):
            headers = {"Authorization": f"Bearer {secret}"}
            assert served.client.get(SESSIONS, headers=headers).status_code == status
        assert "is open to other users" in served.log.read_text()
        assert TOKEN not in served.log.read_text()


def test_folders_outside_the_roots(served: Served, environment: dict[str, str]) -> None:
    """They are refused in the same words, whether they exist or not, and however they are spelt."""
    root = environment["WARMCLIP_ROOTS"]
    outside = str(Path(root).parent / "outside")
    told = set()
    for path in (
        "/", "/etc", "/nowhere-at-all", outside, f"{outside}-none", f"{root}/../outside",
        f"{root}/inside/../../outside", f"{root}-not", f"{root}/link", "//etc", "/proc/self/root",
    ):  # fmt: skip
        answer = served.client.post(SESSIONS, json={"training_directory": path})
        told.add(problem(answer, 403).replace(repr(path), "PATH"))
    assert len(told) == 1


@pytest.mark.parametrize("path", ["{root}/none", "{root}/a.txt", "inside", "{root}/in\0side", "."])
def test_no_folder_inside_the_roots(served: Served, environment: dict[str, str], path: str) -> None:
    """What is no folder, or no absolute path, is told at once."""
    order = {"training_directory": path.format(root=environment["WARMCLIP_ROOTS"])}
    problem(served.client.post(SESSIONS, json=order), 422)


def test_no_roots(environment: dict[str, str]) -> None:
    """Without roots no folder may be named: whoever can log in to the machine may ask."""
    with running_server(environment | {"WARMCLIP_ROOTS": ""}) as served:
        order = {"training_directory": environment["WARMCLIP_ROOTS"]}
        answer = served.client.post(SESSIONS, json=order)
        assert "WARMCLIP_ROOTS" in problem(answer, 403)
        answer = served.client.post("/api/v1/embed/image", json={"path": "/etc/hosts"})
        assert "WARMCLIP_ROOTS" in problem(answer, 403)


@pytest.mark.parametrize(
    "order",
    [
        {},
        {"training_directory": ""},
        {"training_directory": 7},
        {"training_directory": "/a", "collection": "a__b"},
        {"training_directory": "/a", "collection": "../a"},
        {"training_directory": "/a", "colection": "a"},
        [],
        None,
    ],
    ids=str,
)
def test_order_that_does_not_fit(served: Served, order: object) -> None:
    """It is 422, and the problem says where it does not."""
    answer = served.client.post(SESSIONS, json=order)
    problem(answer, 422)
    assert all(each["where"] and each["what"] for each in answer.json()["errors"])


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/api/v1/search?q=a&sinse=2026-01-01", "did you mean 'since'"),
        (f"{SESSIONS}?page=2", "'page' is no parameter"),
        ("/readyz?=null", "'' is no parameter"),
        ("/api/v1/search?q=a&folder=/a&folder=/b", "'folder' stands twice"),
    ],
)
def test_parameter_that_nobody_knows(served: Served, path: str, told: str) -> None:
    """It is refused, or one that stands twice: the search would else find too much, in silence."""
    assert told in problem(served.client.get(path), 422)


@pytest.mark.parametrize(
    ("field", "told"),
    [({"foldr": "/a"}, "did you mean 'folder'"), ({"folder": ""}, "'folder' is empty")],
    ids=str,
)
def test_field_that_nobody_knows(served: Served, field: dict[str, str], told: str) -> None:
    """Nor is a misspelt filter in a form overlooked, or one that is empty."""
    sent = served.client.post(
        "/api/v1/search/image", data=field, files={"file": ("a.jpg", b"a picture")}
    )
    assert told in problem(sent, 422)


@pytest.mark.parametrize(("route", "field"), [("search", "file"), ("embed", "model")])
def test_field_that_stands_twice(served: Served, route: str, field: str) -> None:
    """Of two pictures that are sent the last would be searched, as if it were the only one."""
    twice = [(field, (None if field == "model" else "a.jpg", b"a picture"))] * 2
    sent = served.client.post(
        f"/api/v1/{route}/image", files=[*twice, *([("file", b"a")] if field == "model" else [])]
    )
    assert f"'{field}' stands twice" in problem(sent, 422)


def test_json_that_is_not_called_so(served: Served) -> None:
    """What `curl -d` sends by itself is answered with the header that is missing."""
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    sent = served.client.post(SESSIONS, content='{"training_directory": "/a"}', headers=kind)
    assert "Content-Type: application/json" in problem(sent, 422)


def test_large_body(served: Served) -> None:
    """It is refused by its length, or, sent without one, as soon as it is too long."""
    large = b"x" * (11 * 1024 * 1024)
    told = problem(served.client.post("/api/v1/embed/image", files={"file": large}), 413)
    assert "10,485,760" in told
    json_headers = {"Content-Type": "application/json"}
    body = b'{"texts": ["' + large[: 2 * 1024 * 1024] + b'"]}'
    problem(served.client.post("/api/v1/embed/text", content=body, headers=json_headers), 413)
    for _ in range(10):  # the answer is not lost while the body is still being sent
        unknown = {"Host": "evil.example", **json_headers}
        problem(served.client.post("/api/v1/embed/text", content=large, headers=json_headers), 413)
        problem(served.client.post("/api/v1/embed/text", content=large, headers=unknown), 421)
    pieces = (body[start : start + 65_536] for start in range(0, len(body), 65_536))
    problem(served.client.post("/api/v1/embed/text", content=pieces, headers=json_headers), 413)


@pytest.mark.parametrize("body", [b"", b"{", b"[" * 100_000, b'"\xff"', b'{"texts": ["\\ud800"]}'])
def test_body_that_is_no_json(served: Served, body: bytes) -> None:
    """It is the sender's mistake, and never ours."""
    headers = {"Content-Type": "application/json"}
    answer = served.client.post("/api/v1/embed/text", content=body, headers=headers)
    assert answer.status_code in (400, 422)
    assert re.search("JSON|unicode|required", problem(answer, answer.status_code))


def test_nothing_there(served: Served) -> None:
    """Other paths and methods are problems as well."""
    assert "/openapi.json" in problem(served.client.get("/nowhere"), 404)
    answer = served.client.delete(SESSIONS)
    problem(answer, 405)
    assert answer.headers["Allow"] == "GET, POST"
    problem(served.client.get(f"{SESSIONS}/{'0' * 32}"), 404)
    for turn in ("pause", "resume", "cancel", "retry"):
        problem(served.client.post(f"{SESSIONS}/{'0' * 32}/{turn}"), 404)
