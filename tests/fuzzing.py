"""`make fuzz`: requests made from /openapi.json, many of them wrong on purpose.

A real server with a real worker and a few pictures must answer each as it is described. Started
with the folder that schemathesis is installed in; what follows is for schemathesis.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from string import Template

from running import environment_of, running_worker
from serving import SESSIONS, Served, draw, running_server
from warmclip.settings import Settings

_HERE = Path(__file__).parent
_BUNDLE = _HERE.parent / "models" / "demo" / "bundle"
_WITHOUT_END = f"--exclude-path={SESSIONS}/events"  # a stream: it would be waited for


def main(schemathesis: Path, arguments: list[str]) -> int:
    """Fuzz a server of one's own; returns schemathesis' exit code."""
    with tempfile.TemporaryDirectory(prefix="warmclip-fuzz-") as folder:
        pictures = Path(folder) / "pictures"
        draw(pictures, 40)
        environment = environment_of(Path(folder) / "home", _BUNDLE, WARMCLIP_ROOTS=str(pictures))
        settings = Settings.from_env(environment)
        with running_server(environment, "--rate", "0") as served:
            session = served.begin(pictures)
            with running_worker(settings, environment):
                served.wait(session)
                config = Path(folder) / "fuzzing.toml"
                config.write_text(_config(served, pictures))
                description = str(served.client.base_url.join("/openapi.json"))
                command = [str(schemathesis), f"--config-file={config}", "run", description]
                command.append(_WITHOUT_END)
                done = subprocess.run([*command, *arguments], check=False, cwd=folder)
                health = served.client.get("/healthz")
                if health.status_code != 200:
                    sys.stderr.write(f"afterwards the server is not well: {health.text}\n")
                    return 1
    return done.returncode


def _config(served: Served, pictures: Path) -> str:
    """What schemathesis is told, with what there is here."""
    hits = served.get("/api/v1/search?q=a&limit=5")["hits"]
    sessions = served.get(SESSIONS)["sessions"]
    values = {
        "POINTS": [hit["id"] for hit in hits],
        "SESSIONS": [session["id"] for session in sessions],
        "FOLDERS": [str(pictures), f"{pictures}/none", str(pictures.parent)],
        "FILES": [hit["path"] for hit in hits] + [f"{pictures}/none.png"],
    }
    # A list of strings is the same in TOML as in JSON.
    told = {name: json.dumps(some) for name, some in values.items()}
    return Template((_HERE / "fuzzing.toml").read_text()).substitute(told)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).absolute(), sys.argv[2:]))
