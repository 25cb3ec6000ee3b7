"""Python imports this module by itself in every process that has its folder on PYTHONPATH."""

import os
import sys
from pathlib import Path

if "MAC_REHEARSAL" in os.environ:
    import pretended_mac  # type: ignore[import-not-found]  # its folder is on PYTHONPATH only there

    pretended_mac.enter()
if "FAULTY_CLOCK" in os.environ:  # before anybody looks at it
    import faulty_clock  # type: ignore[import-not-found]  # its folder is on PYTHONPATH only there

    faulty_clock.enter(Path(os.environ["FAULTY_CLOCK"]))

import faulty_providers  # type: ignore[import-not-found]  # its folder is on PYTHONPATH only there

faulty_providers.enter()
if "warmclip.work.horse" in sys.orig_argv:
    import faulty_files  # type: ignore[import-not-found]  # as above
    import faulty_pictures  # type: ignore[import-not-found]  # as above
    import faulty_timeouts  # type: ignore[import-not-found]  # as above

    faulty_files.enter()
    faulty_pictures.enter()
    faulty_timeouts.enter()
elif "FAULTY_DIES_AFTER_TAKING" in os.environ:
    import faulty_worker  # type: ignore[import-not-found]  # as above

    faulty_worker.enter()
