"""Train the demo model: a small CLIP of the drawings of `warmclip_export.scenes`.

`make train-demo` runs it. It draws every picture itself, needs no network, and writes the
checkpoint, its open_clip configuration and a record of the training. The same command on the same
machine and versions gives the same figure: seeds and threads are fixed.
"""

import argparse
import hashlib
import json
import logging
import math
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from itertools import chain, islice
from pathlib import Path
from random import Random

import open_clip
import torch
from open_clip import CLIP
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from warmclip_export import captions, drawing, scenes
from warmclip_export.captions import Caption
from warmclip_export.scenes import Scene

NAME = "warmclip-demo"
ARCHITECTURE = {
    "embed_dim": 128,
    "vision_cfg": {
        "image_size": 64,
        "layers": 4,
        "width": 128,
        "head_width": 32,
        "patch_size": 8,
    },
    # The 49,408 rows of CLIP's own vocabulary dominate the size of the files: hence 64 wide.
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 4, "layers": 3},
}
WANTED_TOP1 = 0.90
EVALUATION_SIDE_PX = 224

Preprocess = Callable[[Image.Image], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A stretch of the training with its own rise and fall of the learning rate.

    Attributes:
        steps: Optimiser steps, each on fresh drawings.
        peak_rate: Learning rate after the warm-up; it falls to zero along a cosine.
        warmup_steps: Steps until the peak rate.
        families: Whether a batch is made of families that differ in shape alone. From the start
            they teach little; once colours and sizes are known, they teach shapes.
    """

    steps: int
    peak_rate: float
    warmup_steps: int
    families: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All that decides the result of a training.

    Attributes:
        seed: Of weights, scenes, drawings and captions.
        stages: One after the other, each from the rounded weights of the one before.
        batch_size: Pictures, and as many captions, per step.
        weight_decay: Of matrices; vectors and embeddings are left alone.
        threads: Torch threads; sums come out differently with another number.
    """

    seed: int = 7
    stages: tuple[Stage, ...] = (
        Stage(steps=1500, peak_rate=1.5e-3, warmup_steps=100, families=False),
        Stage(steps=700, peak_rate=1e-3, warmup_steps=50, families=True),
    )
    batch_size: int = 128
    weight_decay: float = 0.05
    threads: int = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutScore:
    """Share of held-out scenes whose nearest neighbour is the right one.

    Attributes:
        scenes: How many scenes and captions were compared with each other.
        text_to_image_top1: Captions that find their picture first.
        image_to_text_top1: Pictures that find their caption first.
        short_query_top1: Queries of a colour and a shape that find a fitting picture first.
    """

    scenes: int
    text_to_image_top1: float
    image_to_text_top1: float
    short_query_top1: float


@dataclass(frozen=True, slots=True)
class Batch:
    """Pictures (n, 3, S, S), tokens (n, 77), and which caption fits which picture (n, n)."""

    pixels: Tensor
    tokens: Tensor
    fits: Tensor


class Batches(Dataset[Batch]):
    """The batches of a stage; each depends on the seed and its number alone, whoever draws it."""

    def __init__(self, plan: Plan, number: int, preprocess: Preprocess) -> None:
        """Take the stage of that number, and open_clip's eval transform."""
        self._plan = plan
        self._stage = plan.stages[number]
        self._first = sum(stage.steps for stage in plan.stages[:number])
        self._preprocess = preprocess

    def __len__(self) -> int:
        """Count the steps of the stage."""
        return self._stage.steps

    def __getitem__(self, index: int) -> Batch:
        """Draw and describe the scenes of one step."""
        rng = Random(f"{self._plan.seed}/{self._first + index}")  # noqa: S311  # no secrets
        if self._stage.families:
            shuffled = chain.from_iterable(rng.sample(scenes.families(), len(scenes.families())))
            chosen = list(islice(shuffled, self._plan.batch_size))
        else:
            chosen = rng.sample(scenes.training(), self._plan.batch_size)
        drawn = [scenes.arrange(combination, rng) for combination in chosen]
        pixels = [
            self._preprocess(drawing.draw_scene(scene, rng, rng.choice((128, 192, 256))))
            for scene in drawn
        ]
        described = [captions.random_caption(scene, rng) for scene in drawn]
        return Batch(
            torch.stack(pixels),
            open_clip.tokenize([caption.text for caption in described]),
            _fits(described, drawn),
        )


def write_config(folder: Path) -> Path:
    """Write the architecture where `open_clip.add_model_config` can find it."""
    path = folder / f"{NAME}.json"
    path.write_text(json.dumps(ARCHITECTURE, indent=2) + "\n", encoding="utf-8")
    return path


def load(folder: Path) -> tuple[CLIP, Preprocess]:
    """Load a trained model and its eval transform, as any user of open_clip would."""
    open_clip.add_model_config(folder / f"{NAME}.json")
    model, _, preprocess = open_clip.create_model_and_transforms(
        NAME, pretrained=str(folder / f"{NAME}.safetensors"), precision="fp32"
    )
    return model.eval(), preprocess


def train(plan: Plan, on_step: Callable[[float], None]) -> CLIP:
    """Train from scratch; the configuration must be known to open_clip by now.

    Args:
        plan: What to do.
        on_step: Called with the loss after every step.

    Returns:
        The model, in evaluation mode, its weights exact in half precision.
    """
    torch.manual_seed(plan.seed)
    model, _, preprocess = open_clip.create_model_and_transforms(NAME, precision="fp32")
    model.train()
    for number, stage in enumerate(plan.stages):
        optimiser = torch.optim.AdamW(_groups(model, plan), lr=stage.peak_rate, betas=(0.9, 0.98))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, partial(_rate, stage))
        for batch in _drawn_ahead(Batches(plan, number, preprocess)):
            loss = _loss(model, batch)
            optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            with torch.no_grad():
                model.logit_scale.clamp_(max=math.log(100))
            on_step(loss.item())
        _round(model)
    return model.eval()


def save(model: CLIP, folder: Path) -> Path:
    """Write the weights in half precision."""
    path = folder / f"{NAME}.safetensors"
    halves = {name: weight.half().contiguous() for name, weight in model.state_dict().items()}
    save_file(halves, path)
    return path


@torch.inference_mode()
def evaluate(model: CLIP, preprocess: Preprocess, seed: int) -> HeldOutScore:
    """Match every held-out scene with its caption among all of them."""
    rng = Random(f"{seed}/held-out")  # noqa: S311  # pictures, not secrets
    drawn = [scenes.arrange(combination, rng) for combination in scenes.held_out()]
    pixels = [preprocess(drawing.draw_scene(scene, rng, EVALUATION_SIDE_PX)) for scene in drawn]
    images: Tensor = model.encode_image(torch.stack(pixels), normalize=True)

    def match(sentences: Sequence[str]) -> Tensor:
        texts: Tensor = model.encode_text(open_clip.tokenize(sentences), normalize=True)
        return texts @ images.T

    similarity = match([captions.fixed_captions(scene)[0] for scene in drawn])
    own = torch.arange(len(drawn))
    queries = [captions.short_caption(scene) for scene in drawn]
    nearest = match([query.text for query in queries]).argmax(dim=1)
    found = _fits(queries, drawn)[own, nearest]
    return HeldOutScore(
        scenes=len(drawn),
        text_to_image_top1=int((similarity.argmax(dim=1) == own).sum()) / len(drawn),
        image_to_text_top1=int((similarity.argmax(dim=0) == own).sum()) / len(drawn),
        short_query_top1=int(found.sum()) / len(drawn),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, write, load back, evaluate; 1 if the model is not good enough to ship."""
    plan = Plan()
    parser = argparse.ArgumentParser(prog="train.py", description="Train warmclip's demo model.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder to write")
    parser.add_argument("--seed", type=int, default=plan.seed)
    options = parser.parse_args(arguments)
    plan = replace(plan, seed=options.seed)
    console = Console(stderr=True)
    logging.disable(logging.WARNING)  # open_clip warns that a model before training is untrained
    torch.set_num_threads(plan.threads)
    torch.use_deterministic_algorithms(True)

    started = time.monotonic()
    options.out.mkdir(parents=True, exist_ok=True)
    open_clip.add_model_config(write_config(options.out))
    with Progress(
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}"),
        TimeRemainingColumn(),
        console=console,
    ) as progress:
        task = progress.add_task(
            "train", total=sum(stage.steps for stage in plan.stages), loss=math.nan
        )
        model = train(plan, lambda loss: progress.update(task, advance=1, loss=loss))
    checkpoint = save(model, options.out)

    # What is judged is what is shipped: the rounded weights, read back from the file.
    score = evaluate(*load(options.out), plan.seed)
    record = _record(plan, score, checkpoint, time.monotonic() - started)
    (options.out / "training.json").write_text(json.dumps(record, indent=2) + "\n", "utf-8")
    console.print(
        f"held-out top-1 of {score.scenes}: text to image {score.text_to_image_top1:.3f}, "
        f"image to text {score.image_to_text_top1:.3f}, "
        f"short queries {score.short_query_top1:.3f}; {checkpoint}"
    )
    if score.text_to_image_top1 < WANTED_TOP1:
        console.print(
            f"text-to-image top-1 {score.text_to_image_top1:.3f} is below {WANTED_TOP1}: "
            "do not commit this model; try another --seed or longer stages"
        )
        return 1
    return 0


def _fits(described: Sequence[Caption], drawn: Sequence[Scene]) -> Tensor:
    """Mark every picture a caption is true of: "a red circle" may fit several in a batch."""
    return torch.tensor(
        [
            [caption.fits(scene, other) for other in drawn]
            for caption, scene in zip(described, drawn, strict=True)
        ]
    )


def _drawn_ahead(batches: Batches) -> Iterator[Batch]:
    """Yield the batches in order, drawn by another process while the model computes."""
    yield from DataLoader(batches, batch_size=None, num_workers=1, prefetch_factor=4)


@torch.no_grad()
def _round(model: CLIP) -> None:
    """Keep of each weight what half precision can hold, so that a file holds it all."""
    for weight in model.parameters():
        weight.copy_(weight.half())


def _groups(model: CLIP, plan: Plan) -> list[dict[str, object]]:
    """Leave embeddings and vectors undecayed: most words of the vocabulary are never trained."""
    named = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    decayed = [weight for name, weight in named if weight.ndim > 1 and "embedding" not in name]
    spared = [weight for name, weight in named if weight.ndim <= 1 or "embedding" in name]
    return [
        {"params": decayed, "weight_decay": plan.weight_decay},
        {"params": spared, "weight_decay": 0.0},
    ]


def _rate(stage: Stage, step: int) -> float:
    """Give the learning rate of a step as a part of the stage's peak rate."""
    if step < stage.warmup_steps:
        return (step + 1) / stage.warmup_steps
    done = (step - stage.warmup_steps) / max(1, stage.steps - stage.warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * done))


def _loss(model: CLIP, batch: Batch) -> Tensor:
    """Contrast both ways, sharing the target among all pictures a caption is true of."""
    images = model.encode_image(batch.pixels, normalize=True)
    texts = _encode_text(model, batch.tokens)
    logits = model.logit_scale.exp() * texts @ images.T
    fits = batch.fits.float()
    to_images = functional.cross_entropy(logits, fits / fits.sum(dim=1, keepdim=True))
    to_texts = functional.cross_entropy(logits.T, fits.T / fits.T.sum(dim=1, keepdim=True))
    return (to_images + to_texts) / 2


def _encode_text(model: CLIP, tokens: Tensor) -> Tensor:
    """Encode short sentences without the padding after them.

    The mask is causal and the end-of-text token is what is read, so nothing behind it counts:
    this is `model.encode_text(tokens, normalize=True)` in a quarter of the time.
    """
    ends = tokens.argmax(dim=1)  # end-of-text has the highest id
    length = int(ends.max()) + 1
    hidden = model.token_embedding(tokens[:, :length]) + model.positional_embedding[:length]
    hidden = model.transformer(hidden, attn_mask=model.attn_mask[:length, :length])
    read = model.ln_final(hidden)[torch.arange(len(tokens)), ends]
    return functional.normalize(read @ model.text_projection, dim=-1)


def _record(plan: Plan, score: HeldOutScore, checkpoint: Path, seconds: float) -> dict[str, object]:
    return {
        "plan": asdict(plan),
        "combinations": {
            "all": len(scenes.all_combinations()),
            "training": len(scenes.training()),
            "held_out": len(scenes.held_out()),
        },
        "held_out": asdict(score),
        "seconds": round(seconds, 1),
        "checkpoint": {
            "file": checkpoint.name,
            "bytes": checkpoint.stat().st_size,
            "sha256": hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
        },
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "open_clip_torch", "numpy", "pillow")},
        },
    }


if __name__ == "__main__":
    sys.exit(main())
