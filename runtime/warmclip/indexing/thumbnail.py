"""Thumbnails: pictures drawn small, for people to look at."""

from io import BytesIO

from PIL import Image, ImageCms

from warmclip.errors import ImageUnreadable
from warmclip.inference.image import UNDECODABLE, open_image, read_orientation, stand_up
from warmclip.settings import Limits

DRAWING = 2
"""Grows when the same picture is drawn otherwise."""

_QUALITY = 82
_LARGEST_PROFILE_BYTES = 4 * 1024 * 1024
_PAPER = (255, 255, 255)


def draw_thumbnail(data: bytes, side_px: int, limits: Limits) -> bytes:
    """A picture as a JPEG whose longer side has at most so many pixels, never enlarged.

    The orientation tag is obeyed, which the embedding may ignore, and what is transparent becomes
    white. Colours are those of sRGB, whatever profile the picture has. No metadata is copied: no
    place, no camera, no profile. Of a picture that was cut off, what is left is drawn: where such
    pictures have vectors, that is what the model has seen.

    Raises:
        ImageUnreadable: it is no picture, or larger than the limits.
    """
    picture = open_image(data, limits, side_px=side_px, load_truncated=True)
    try:
        profile = picture.info.get("icc_profile")
        picture.thumbnail((side_px, side_px))
        upright = stand_up(picture, read_orientation(picture))
        if upright.has_transparency_data:
            rgba = upright.convert("RGBA")
            upright = Image.new("RGB", rgba.size, _PAPER)
            upright.paste(rgba, mask=rgba.getchannel("A"))
        out = BytesIO()
        _in_srgb(upright, profile).save(out, "JPEG", quality=_QUALITY)
    except UNDECODABLE as exc:
        raise ImageUnreadable(f"cannot be drawn: {exc}") from exc
    return out.getvalue()


def _in_srgb(picture: Image.Image, profile: object) -> Image.Image:
    """A picture in the colours that screens show without a profile; as it is if it has none.

    A profile that cannot be used is none: the picture is shown all the same.
    """
    if not isinstance(profile, bytes) or not 0 < len(profile) <= _LARGEST_PROFILE_BYTES:
        return picture.convert("RGB")
    colours = picture if picture.mode in ("L", "RGB", "CMYK") else picture.convert("RGB")
    try:
        own = ImageCms.ImageCmsProfile(BytesIO(profile))
        srgb = ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(colours, own, srgb, outputMode="RGB")
    except (*UNDECODABLE, ImageCms.PyCMSError, ImportError):  # a Pillow without LittleCMS
        return picture.convert("RGB")
    return picture.convert("RGB") if converted is None else converted
