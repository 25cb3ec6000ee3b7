"""What a newcomer sees first."""

import os
import re
import subprocess
import sys
from pathlib import Path

from PIL import Image

REPOSITORY = Path(__file__).parents[2]


def test_demo_finds_what_was_asked_for(tmp_path: Path) -> None:
    """`make demo` ends well, and for each search the first hit fits the words."""
    scripts = Path(sys.executable).parent
    environment = os.environ | {"PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        [REPOSITORY / "models/demo/run", tmp_path / "demo"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    searches = re.findall(r"^(\S.*)\n +1 +[\d.]+ +(\S+\.png)", done.stdout, re.MULTILINE)
    assert len(searches) == 3
    for words, hit in searches:
        wanted = set(words.split()) - {"a", "on", "background"}
        assert wanted <= set(Path(hit).name.split("-")), words
    with Image.open(tmp_path / "demo" / "found.png") as sheet:
        assert sheet.height > 600
