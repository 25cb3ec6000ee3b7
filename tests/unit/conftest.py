"""What several files of this tier share."""

from pathlib import Path

import pytest

from warmclip.inference.bundle import ModelBundle


@pytest.fixture(scope="module")
def bundle(demo_bundle: Path) -> ModelBundle:
    """The demo model's; a file that spoils it has a copy of its own."""
    return ModelBundle.open(demo_bundle)
