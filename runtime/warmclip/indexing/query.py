"""One thing to look for."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Words, or a picture's path: exactly one of them."""

    text: str | None = None
    image: str | None = None

    @property
    def heading(self) -> str:
        """What to write above the hits."""
        return self.text if self.text is not None else f"like {self.image}"
