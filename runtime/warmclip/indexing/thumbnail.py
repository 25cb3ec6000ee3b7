"""Thumbnails: pictures drawn small, for people to look at."""

from io import BytesIO

from PIL import Image, ImageOps

from warmclip.errors import ImageUnreadable
from warmclip.inference.image import UNDECODABLE, open_image
from warmclip.settings import Limits

_QUALITY = 82
_PAPER = (255, 255, 255)


def draw_thumbnail(data: bytes, side_px: int, limits: Limits) -> bytes:
    """A picture as a JPEG whose longer side has at most so many pixels, never enlarged.

    The orientation tag is obeyed, which the embedding may ignore, and what is transparent becomes
    white. No metadata is copied: no place, no camera, no profile.

    Raises:
        ImageUnreadable: it is no whole picture, or larger than the limits.
    """
    picture = open_image(data, limits)
    try:
        small = picture.copy()
        small.thumbnail((side_px, side_px))
        upright = ImageOps.exif_transpose(small)
        if upright.has_transparency_data:
            rgba = upright.convert("RGBA")
            flat = Image.new("RGB", rgba.size, _PAPER)
            flat.paste(rgba, mask=rgba.getchannel("A"))
        else:
            flat = upright.convert("RGB")
        out = BytesIO()
        flat.save(out, "JPEG", quality=_QUALITY)
    except UNDECODABLE as exc:
        raise ImageUnreadable(f"cannot be drawn: {exc}") from exc
    return out.getvalue()
