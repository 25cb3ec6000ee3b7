"""A picture resized and cut to the square that the model sees, without the work it does not show.

``full`` gives the bytes of open_clip's resize and centre crop. Pillow resamples along the rows,
rounds to bytes, then resamples along the columns, so a row of the first pass depends on that row
alone: those of a tall picture that the crop never looks at are left out of it. Columns of a wide
one can be left out only where a box cuts them off at a place that float32, in which Pillow keeps
it, holds exactly: with sides of 3 to 2, not with 4 to 3. Elsewhere the filter would be moved by a
fraction of a pixel, and bytes would change.

``scaled`` averages whole blocks of a large picture before it resamples what they leave.
"""

from math import ceil, floor
from typing import TypeAlias

from PIL import Image, ImageOps

from warmclip.inference.bundle import ImageRecipe

Size: TypeAlias = tuple[int, int]
"""Width and height, px."""

Box: TypeAlias = tuple[float, float, float, float]
"""Left, upper, right and lower edge, px."""

SCALED_GAP = 2
"""With ``scaled``, what is left of a picture has so many times the side that is wanted, or more."""

_FILTERS = {
    "bicubic": (Image.Resampling.BICUBIC, 2),
    "bilinear": (Image.Resampling.BILINEAR, 1),
}  # with the pixels that each reaches to either side, at the coarser of both scales

# Modes of bytes. Others are rare, Pillow cannot cut up or average all of them, and takes the
# nearest pixel of a palette in any case.
_BYTES = frozenset({"L", "LA", "RGB", "RGBA", "CMYK", "YCbCr"})

_PREMULTIPLIED = {"LA": "La", "RGBA": "RGBa"}  # what Pillow resizes in their stead

_WORTHWHILE = 0.9  # of the rows: to leave out fewer takes longer than it saves


def resized_size(size: Size, recipe: ImageRecipe) -> Size:
    """The size of a picture after open_clip's resize, before crop and padding."""
    width, height = size
    target = recipe.size_px
    match recipe.resize_mode:
        case "squash":
            return target, target
        case "shortest":  # torchvision multiplies before it divides, and cuts
            long = int(target * max(size) / min(size))
            return (target, long) if width <= height else (long, target)
        case "longest":  # open_clip divides by a ratio, and rounds
            ratio = max(height / target, width / target)
            return round(width / ratio), round(height / ratio)


def box_filled(left: Size, whole: Size, orientation: object) -> Box:
    """The part of what a scaled decoder left that the picture fills, by the sizes of both.

    It leaves a pixel for each square block, and the last blocks reach beyond the picture. Where
    it was turned by its EXIF ``orientation`` since, those may be the first.
    """
    block = round(whole[0] / left[0])
    spare_x, spare_y = left[0] - whole[0] / block, left[1] - whole[1] / block
    x = spare_x if orientation in (2, 3, 6, 7) else 0
    y = spare_y if orientation in (3, 4, 7, 8) else 0
    return x, y, x + whole[0] / block, y + whole[1] / block


def cut_square(
    image: Image.Image, size: Size, recipe: ImageRecipe, box: Box | None = None
) -> Image.Image:
    """Resize a picture to ``size`` and cut out the centre, in the picture's own mode.

    Args:
        image: all of a picture, or what a scaled decoder left.
        size: of the whole picture, resized.
        recipe: how to resize, how much to cut out.
        box: what the picture fills of what the decoder left.

    Raises:
        ValueError: Pillow cannot resize this mode, or not to this size.
    """
    side = recipe.size_px
    resample, radius = _FILTERS[recipe.interpolation]
    left, top = _centred(size[0], side), _centred(size[1], side)
    if image.mode not in _BYTES or min(size) == 0:  # Pillow says that it cannot resize to nothing
        resized = image.resize(size, resample)
    elif box or (recipe.decode == "scaled" and _is_large(image.size, size)):
        resized = image.resize(size, resample, box, SCALED_GAP)
    elif seen := _columns_seen(image.size, size, (left, left + side)):
        return image.resize((side, side), resample, seen)
    elif rows := _rows_seen(image.size, size, (top, top + side), radius):
        resized = _resize_rows(image, size, resample, rows)
    else:
        resized = image.resize(size, resample)
    if recipe.resize_mode == "longest":
        resized = _pad(resized, recipe)
        left, top = _centred(resized.width, side), _centred(resized.height, side)
    return resized.crop((left, top, left + side, top + side))


def _is_large(whole: Size, size: Size) -> bool:
    """Whether ``scaled`` has a shortcut from a whole picture to this size of it."""
    return all(of >= 2 * SCALED_GAP * side for of, side in zip(whole, size, strict=True))


def _columns_seen(whole: Size, size: Size, crop: tuple[int, int]) -> Box | None:
    """The box of a wide picture that columns ``crop`` of the resized one are made of.

    None where there is nothing to leave out, or an edge falls on no eighth of a pixel.
    The filter is placed by another sum then, equal but for the last bits of a double: its
    coefficients, which Pillow rounds to 22 bits, were the same at all of 26,000 sizes.
    """
    if crop[1] - crop[0] != size[1] or crop[0] <= 0:
        return None
    edges = [place * whole[0] for place in crop]
    if any(8 * edge % size[0] for edge in edges):
        return None
    return edges[0] / size[0], 0, edges[1] / size[0], whole[1]


def _rows_seen(
    whole: Size, size: Size, crop: tuple[int, int], radius: int
) -> tuple[int, int] | None:
    """The first and the last (exclusive) row that rows ``crop`` of the resized picture are made of.

    None where those are nearly all, or rows are not what Pillow begins with: it begins with the
    columns of a picture that shrinks more than twice as much in height (python-pillow/Pillow#9549).
    """
    if whole[0] <= size[0] or whole[1] > 2 * whole[0]:
        return None
    scale = whole[1] / size[1]
    reach = radius * max(scale, 1.0) + 1  # a spare row each: to reach too far costs nothing
    first = max(0, floor((crop[0] + 0.5) * scale - reach))
    last = min(whole[1], ceil((crop[1] - 0.5) * scale + reach))
    return (first, last) if last - first < _WORTHWHILE * whole[1] else None


def _resize_rows(
    image: Image.Image, size: Size, resample: Image.Resampling, rows: tuple[int, int]
) -> Image.Image:
    """Resize, right where no row but ``rows`` of the picture plays a part."""
    mode = image.mode
    if mode in _PREMULTIPLIED:  # otherwise, to convert is to copy
        image = image.convert(_PREMULTIPLIED[mode])
    first, last = rows
    # Whole rows: the second pass does nothing here, and the box is exact.
    box = (0, first, image.width, last)
    narrow = image.resize((size[0], last - first), resample, box)
    # Back in their place, so that the second pass is that of the whole picture.
    canvas = Image.new(image.mode, (size[0], image.height))
    canvas.paste(narrow, (0, first))
    resized = canvas.resize(size, resample)
    return resized.convert(mode) if mode in _PREMULTIPLIED else resized


def _centred(side: int, target: int) -> int:
    # Python rounds halves to even, torchvision's centre crop with it: 3 spare pixels go 2 and 1.
    return round((side - target) / 2.0)


def _pad(image: Image.Image, recipe: ImageRecipe) -> Image.Image:
    """Surround a picture that is narrower or lower than the crop; the odd pixel goes last."""
    spare_x = max(recipe.size_px - image.width, 0)
    spare_y = max(recipe.size_px - image.height, 0)
    if not spare_x and not spare_y:
        return image
    border = (spare_x // 2, spare_y // 2, (spare_x + 1) // 2, (spare_y + 1) // 2)
    bands = len(image.getbands())
    return ImageOps.expand(image, border, recipe.fill if bands == 1 else (recipe.fill,) * bands)
