"""`warmclip search` in a collection of a Qdrant server."""

import json
from pathlib import Path
from typing import Any

import pytest
from qdrant_client import QdrantClient
from typer.testing import CliRunner

from standins import qdrant as stand_in
from warmclip.cli import app
from warmclip.store import server as store_server
from warmclip_export import drawing

pytestmark = pytest.mark.quick


@pytest.mark.parametrize("named", [False, True])
def test_server_is_connected_to_once(
    tmp_path: Path, demo_bundle: Path, monkeypatch: pytest.MonkeyPatch, named: bool
) -> None:
    """One client asks for the collection's model and for the pictures: a server far away takes
    its time for each connection, and what is wrong with it is said once.
    """
    drawing.write_gallery(tmp_path / "pictures", 3, seed=0)
    made: list[QdrantClient] = []

    def counted(**options: Any) -> QdrantClient:
        made.append(QdrantClient(**options))
        return made[-1]

    with stand_in.serve(tmp_path / "server") as server:
        environment = {
            "WARMCLIP_HOME": str(tmp_path / "home"),
            "WARMCLIP_BUNDLE": str(demo_bundle),
            "QDRANT_URL": server.url,
        }
        run = CliRunner(env=environment).invoke
        assert run(app, ["index", str(tmp_path / "pictures")]).exit_code == 0
        monkeypatch.setattr(store_server, "QdrantClient", counted)
        options = ["--bundle", str(demo_bundle)] if named else []
        done = run(app, ["search", "a star", "--json", *options])
    assert done.exit_code == 0, done.stderr
    assert len(json.loads(done.stdout)["queries"][0]["hits"]) == 3
    assert len(made) == 1
