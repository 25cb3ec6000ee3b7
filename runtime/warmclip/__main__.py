"""The command ``warmclip``, which ``python -m warmclip`` is as well."""

import os
import sys

from warmclip.garbage import rarely_collected

_STDERR = 2


def main() -> None:
    """Run the command line, or say what has to be installed for it."""
    _open_missing_streams()
    try:
        with rarely_collected():
            from warmclip.cli import main as run
    except ModuleNotFoundError as exc:
        from warmclip.errors import missing_package

        package = missing_package(exc)
        print(  # noqa: T201 - what prints otherwise is not installed
            f"{package} is missing: pip install 'warmclip[cpu]', or 'warmclip[worker]' beside "
            "another build of onnxruntime; without them there is only the client of applications",
            file=sys.stderr,
        )
        sys.exit(2)
    run()


def _open_missing_streams() -> None:
    """Open the null device where stdin, stdout or stderr was closed by who started this.

    Else the next file would take such a number, a store's lock for one, and what libraries print
    would be written into it.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        pass
    os.close(descriptor)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(_STDERR, "w", closefd=False)


if __name__ == "__main__":
    main()
