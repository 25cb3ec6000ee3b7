"""Python imports this module by itself in every process that has its folder on PYTHONPATH."""

import os
import runpy
import sys
from pathlib import Path

if "MAC_REHEARSAL" in os.environ:  # not where a test hands on the path alone
    import pretended_mac  # type: ignore[import-not-found]  # its folder is on PYTHONPATH only there

    pretended_mac.enter()
# Of several folders with such a module, Python takes the first one's only.
for _file in (Path(folder, "sitecustomize.py") for folder in sys.path):
    if _file.exists() and not _file.samefile(__file__):
        runpy.run_path(str(_file))
        break
