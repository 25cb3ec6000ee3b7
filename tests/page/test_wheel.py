"""The wheel holds the page: what is installed is what was tested."""

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "runtime" / "warmclip" / "serve" / "page"
BUILD = "import hatchling.build, sys; hatchling.build.build_wheel(sys.argv[1])"


def test_wheel(tmp_path: Path) -> None:
    """Every file of the page is in it, as it is here."""
    subprocess.run([sys.executable, "-c", BUILD, str(tmp_path)], cwd=ROOT, check=True, timeout=60)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        shipped = {
            Path(name).name: archive.read(name)
            for name in archive.namelist()
            if name.startswith("warmclip/serve/page/")
        }
    assert shipped == {path.name: path.read_bytes() for path in PAGE.iterdir()}
    assert {"index.html", "app.js", "style.css"} <= shipped.keys()
