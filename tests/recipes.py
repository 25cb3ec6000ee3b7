"""How pictures become model inputs, in small."""

from warmclip.inference.bundle import ImageRecipe


def a_recipe(size_px: int = 8, **changes: object) -> ImageRecipe:
    """A recipe like CLIP's, with changes in it."""
    fields = {
        "size_px": size_px,
        "resize_mode": "shortest",
        "interpolation": "bicubic",
        "mean": (0.5, 0.25, 0.0),
        "std": (0.5, 0.25, 1.0),
    }
    return ImageRecipe.model_validate(fields | changes)
