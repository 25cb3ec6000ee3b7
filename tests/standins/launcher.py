"""What starts the workers in the service that this project is for: a process that uses OpenCLIP.

It loads torch, builds a model and runs it, on the CPU or where OPEN_CLIP_DEVICE says, then starts
the command that it is given.
"""

import os
import subprocess
import sys

import open_clip
import torch

from tiny_models import TINY_VIT


def main() -> None:
    """Run OpenCLIP here, then the command there."""
    device = os.environ.get("OPEN_CLIP_DEVICE", "cpu")
    model = open_clip.CLIP(**TINY_VIT).eval().to(device)
    with torch.inference_mode():
        model.encode_image(torch.zeros(2, 3, 32, 32, device=device))
        model.encode_text(open_clip.tokenize(["a", "b"]).to(device))
    sys.exit(subprocess.run(sys.argv[1:], check=False).returncode)


if __name__ == "__main__":
    main()
