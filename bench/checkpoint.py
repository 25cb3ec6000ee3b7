"""Write the weights that ``random:0`` stands for as a checkpoint, for open_clip to load.

Usage: python -m bench.checkpoint FILE.safetensors [--model MODEL] [--tokenizer FOLDER]
"""

from pathlib import Path
from typing import Annotated

import typer
from safetensors.torch import save_file

from warmclip_export.catalog import resolve_model
from warmclip_export.reference import Reference


def main(
    target: Annotated[Path, typer.Argument(help="The file to write.")],
    model: Annotated[str, typer.Option(help="A name of open_clip.")] = "ViT-B-32",
    tokenizer: Annotated[str, typer.Option(help="As `warmclip-export` takes it.")] = "",
) -> None:
    """Write the weights that an export with ``--pretrained random:0`` has."""
    drawn = Reference.build(resolve_model(model, "random:0", tokenizer=tokenizer), None).model
    partial = target.with_suffix(".partial")
    save_file({name: it.contiguous() for name, it in drawn.state_dict().items()}, partial)
    partial.replace(target)


if __name__ == "__main__":
    typer.run(main)
