import base64
import io

import pytest
from PIL import Image

from warmclip.client.through_queue import in_base64
from warmclip.errors import ImageUnreadable

_ORIENTATION = 0x0112


def test_open_picture_keeps_its_orientation_tag() -> None:
    """Workers that turn pictures by it turn a picture that was sent as they turn its file."""
    picture = Image.new("RGB", (30, 20))
    picture.getexif()[_ORIENTATION] = 6
    with Image.open(io.BytesIO(base64.b64decode(in_base64(picture)))) as arrived:
        assert arrived.getexif()[_ORIENTATION] == 6
        assert arrived.size == (30, 20)


def test_open_picture_that_no_file_can_hold() -> None:
    """The reason names the mode, and what to do."""
    with pytest.raises(ImageUnreadable, match=r"mode HSV.*convert it to RGB"):
        in_base64(Image.new("HSV", (8, 8)))
