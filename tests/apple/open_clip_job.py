"""The job of the service that this project is for: OpenCLIP on the GPU, built in the job."""

import os

import open_clip
import torch


def embed(text: str) -> list[float]:
    """Embed a picture and a text with a ViT-B-32 of the job's own; random weights crash as well."""
    device = os.environ["OPEN_CLIP_DEVICE"]
    model = open_clip.create_model("ViT-B-32", device=device).eval()
    with torch.inference_mode():
        model.encode_image(torch.zeros(2, 3, 224, 224, device=device))
        features = model.encode_text(open_clip.tokenize([text]).to(device))
    vector: list[float] = features[0].cpu().tolist()
    return vector
