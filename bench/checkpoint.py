"""Write the weights that ``random:0`` stands for as a checkpoint, for open_clip to load.

Usage: python -m bench.checkpoint FILE.safetensors
"""

import sys
from pathlib import Path

from safetensors.torch import save_file

from warmclip_export.catalog import resolve_model
from warmclip_export.reference import Reference

target = Path(sys.argv[1])
partial = target.with_suffix(".partial")
model = Reference.build(resolve_model("ViT-B-32", "random:0"), None).model
save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, partial)
partial.replace(target)
