"""The command ``warmclip-export``: OpenCLIP in, a verified bundle out.

torch is imported inside the commands that need it, so that ``--help`` answers at once.
"""

import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import warmclip
from warmclip.cli.console import Terminal, run_app
from warmclip.cli.paths import parse_path
from warmclip.doctor.processes import DEFAULT_SLACK_S, Kind
from warmclip.errors import WarmclipError
from warmclip.inference.bundle import ModelBundle, Precision
from warmclip.logs import printable
from warmclip.settings import export_folder
from warmclip_export import catalog, drawing, scenes
from warmclip_export.errors import ExportRefused
from warmclip_export.probe import NEEDED, Device, Stage, run_probe

app = typer.Typer(
    name="warmclip-export",
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    epilog="Exit codes: 0 done, 1 not whole (lint) or a stage failed (parity), "
    "2 bad usage or no faithful export, 3 the weights cannot be had.",
)

Pretrained = Annotated[
    str,
    typer.Option(
        help="A tag of the model, a checkpoint (.safetensors, .pt, .ckpt, .bin), random:SEED.",
        show_default="the repository's, else openai",
    ),
]
QuickGelu = Annotated[
    bool | None,
    typer.Option(
        "--quick-gelu/--no-quick-gelu",
        help="The activation; a tag brings its own, a file of some models has to be told.",
    ),
]
Tokenizer = Annotated[
    str,
    typer.Option(
        metavar="FOLDER",
        help="The tokenizer's files, and a text tower's config.json, if Hugging Face is not there.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Answer in JSON on stdout.")]

_NEEDED = (
    "torch", "open_clip", "timm", "onnx", "onnxscript", "safetensors", "skimage",
    "sklearn", "jinja2", "transformers",
)  # fmt: skip


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"warmclip-export {warmclip.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Print the version."
        ),
    ] = False,
) -> None:
    """Turn an OpenCLIP model into a bundle that warmclip runs without torch."""


@app.command()
def model(
    model: Annotated[
        str,
        typer.Option(
            help="open_clip's name, hf-hub:REPOSITORY, or a configuration's path (.json)."
        ),
    ] = "ViT-B-32",
    pretrained: Pretrained = "",
    out: Annotated[
        Path | None,
        typer.Option(
            parser=parse_path,
            metavar="PATH",
            help="The folder that holds the bundles.",
            show_default="./models if there is one, else models in WARMCLIP_HOME",
        ),
    ] = None,
    name: Annotated[
        str,
        typer.Option(
            help="The bundle's folder.",
            show_default="MODEL-PRETRAINED[-rgb-first][-load-truncated]",
        ),
    ] = "",
    quick_gelu: QuickGelu = None,
    tokenizer: Tokenizer = "",
    rgb_first: Annotated[
        bool,
        typer.Option(
            "--rgb-first",
            help='Pictures as Image.open(path).convert("RGB") hands them to open_clip.',
        ),
    ] = False,
    load_truncated: Annotated[
        bool,
        typer.Option(
            "--load-truncated",
            help="Embed what is left of pictures that were cut off, as with Pillow's "
            "LOAD_TRUNCATED_IMAGES.",
        ),
    ] = False,
    precision: Annotated[
        list[str] | None,
        typer.Option(help="int8: make that too, beside fp32 and fp16.", show_default=False),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the bundle of that name.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Export a model, compare every stage with open_clip, and write the bundle."""
    with _command(as_json) as terminal:
        _check_name(name)
        int8 = "int8" in _precisions(precision or [])
        recipe = _resolve(
            terminal,
            model,
            pretrained,
            quick_gelu,
            tokenizer,
            rgb_first=rgb_first,
            load_truncated=load_truncated,
        )
        from warmclip_export.exporter import count_steps, export_model
        from warmclip_export.memory import estimate_memory, find_memory, memory_warning
        from warmclip_export.registry import known_bytes

        sizes = known_bytes(recipe.architecture, recipe.text_model)
        if warning := memory_warning(estimate_memory(sizes), find_memory()):
            terminal.note(warning)
        target = (out or export_folder(os.environ)) / (name or recipe.name)
        with _steps(count_steps(int8=int8), hidden=as_json) as step:
            exported = export_model(recipe, target, force=force, step=step, int8=int8, sizes=sizes)
        for note in exported.notes:
            terminal.note(note)
        manifest = exported.bundle.manifest
        report = {
            "bundle": str(target),
            "fingerprint": manifest.fingerprint,
            "activation": manifest.activation,
            "dim": manifest.dim,
            "random": manifest.is_random,
            "notes": list(exported.notes),
            "stages": [finding.as_json() for finding in exported.findings],
        }
        _answer(terminal, report, [str(finding) for finding in exported.findings], f"{target}")


@app.command(epilog="Exit codes: 0 passed, 1 a stage failed, 2 bad usage, 3 no weights.")
def parity(
    bundle: Annotated[
        Path,
        typer.Argument(parser=parse_path, help="A bundle, such as models/ViT-B-32-openai."),
    ],
    model: Annotated[
        str, typer.Option(help="Its model.", show_default="what the certificate names")
    ] = "",
    pretrained: Annotated[
        str, typer.Option(help="Its weights.", show_default="what the certificate names")
    ] = "",
    tokenizer: Tokenizer = "",
    against: Annotated[
        Literal["mps", "cpu"] | None,
        typer.Option(
            help="Where torch computes the reference.",
            show_default="mps if it is there, else cpu",
        ),
    ] = None,
    every: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            max=20,  # 11 pictures; searches compare the ten nearest
            help="Measure every Nth picture and text only, where the model computes slowly.",
        ),
    ] = 1,
    report: Annotated[
        Path | None,
        typer.Option(
            parser=parse_path,
            metavar="DIR|FILE.html",
            help="Write the findings as a page, and as JSON beside it.",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare a bundle with open_clip, and say whether its vectors may join those of torch.

    Every stage, precision and provider is measured, also after one that fails.
    """
    with _command(as_json) as terminal:
        opened = ModelBundle.open(bundle)
        of_model, of_weights = _certified(opened)
        if of_model.endswith(".json") and not model:
            raise ExportRefused(
                f"{bundle} was made of {of_model} and {of_weights}: say where they lie, "
                "with --model and --pretrained"
            )
        recipe = _resolve(
            terminal,
            model or of_model,
            pretrained or of_weights,
            opened.manifest.activation == "quick_gelu",
            tokenizer,
            rgb_first=opened.manifest.image.rgb_conversion == "before_resize",
        )
        from warmclip_export.parity import corpus, suite
        from warmclip_export.parity import report as reports
        from warmclip_export.parity.targets import find_targets
        from warmclip_export.reference import find_device

        device = find_device(against)
        targets = find_targets(opened, device)
        places = reports.report_paths(report) if report else None
        with (
            tempfile.TemporaryDirectory(prefix="warmclip-parity-") as folder,
            _steps(suite.count_steps(targets), hidden=as_json) as step,
        ):
            samples = corpus.build_corpus(Path(folder), opened.manifest.image.size_px)
            part = samples.part(every)
            result = suite.check_bundle(opened, recipe, part, targets, device, step=step)
        lines = [f"{'passed' if it.passed else 'FAILED'}  {it}" for it in result.record.findings]
        lines += [str(compatibility) for compatibility in result.record.compatibilities]
        lines += [f"not measured: {name}: {why}" for name, why in result.absent.items()]
        lines.append(f"compared: {result.compared}")
        if places:
            reports.write_report(result, *places)
            lines.append(f"report: {places[0]}")
        if not result.passed:
            lines.append(f"first that failed: {result.failed[0].stage}")
        _answer(terminal, result.as_json(), [printable(line) for line in lines], str(bundle))
        if not result.passed:
            raise typer.Exit(1)


@app.command()
def models(
    part: Annotated[
        str,
        typer.Argument(
            help="Part of their names, such as siglip2; adds their sizes, the memory of an export, "
            "and where to read licences."
        ),
    ] = "",
    as_json: Json = False,
) -> None:
    """List the models of the installed open_clip, with their tags and why one is refused."""
    with _command(as_json) as terminal:
        _need(*_NEEDED)
        from warmclip_export.registry import list_entries

        entries = list_entries(part)
        if not entries:
            raise ExportRefused(f"open_clip has no model with {part!r} in its name")
        if as_json:
            terminal.json({"models": [entry.as_json() for entry in entries]})
            return
        for entry in entries:
            typer.echo(entry.describe(cards=bool(part)))
        taken = sum(not entry.reason for entry in entries)
        typer.echo(f"{taken} of {len(entries)} can be exported")


@app.command("lint")
def lint_graphs(
    path: Annotated[Path, typer.Argument(parser=parse_path, help="An ONNX file, or a bundle.")],
    batch: Annotated[
        list[int] | None,
        typer.Option(
            help="A batch size; may be repeated.", min=1, show_default="those CoreML is run with"
        ),
    ] = None,
    length: Annotated[
        int | None,
        typer.Option(help="Tokens of a text.", min=2, show_default="the bundle's, of a file 77"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show which nodes of a graph CoreML would take; needs no Mac and no torch.

    Exit code 1: some node is refused or inexact, there is more than one partition, or more than
    1 MB of weights would lie inline.
    """
    with _command(as_json) as terminal:
        _need("onnx")
        from warmclip_export.coreml import report
        from warmclip_export.coreml.lint import BATCHES

        found = report.lint_graphs(
            report.find_graphs(path), batch or BATCHES, length or report.text_length(path)
        )
        if as_json:
            terminal.json(report.placements_as_json(found))
        else:
            report.show_placements(found, _console())
        if not report.are_whole(found):
            raise typer.Exit(1)


@app.command("draw-scenes")
def draw_scenes(
    folder: Annotated[Path, typer.Argument(parser=parse_path, help="Where to write the pictures.")],
    count: Annotated[int, typer.Option(help="How many.", min=1, max=scenes.HELD_OUT)] = 60,
    seed: Annotated[int, typer.Option(help="Decides which ones.")] = 0,
    as_json: Json = False,
) -> None:
    """Draw pictures to index, whose names say what is in them; needs no torch."""
    with _command(as_json) as terminal:
        try:
            written = drawing.write_gallery(folder, count, seed)
        except OSError as exc:
            raise ExportRefused(f"cannot draw into {folder}: {exc.strerror}") from exc
        if as_json:
            terminal.json({"files": [str(path) for path in written]})
        else:
            typer.echo(f"{len(written)} pictures in {folder}")


@app.command()
def probe(
    stage: Annotated[Stage, typer.Option(help="What to do.")] = "open_clip",
    device: Annotated[Device, typer.Option(help="Where to do it.")] = "cpu",
    process: Annotated[Kind, typer.Option(help="Who does it again, after this process.")] = "main",
    slack: Annotated[
        float, typer.Option(min=0.1, help="Seconds a forked child may take beyond its share.")
    ] = DEFAULT_SLACK_S,
) -> None:
    """Try torch in one kind of process; `warmclip doctor` shows them all. JSON lines on stdout."""
    with _command(as_json=False):
        _need(*NEEDED[stage])
        code = run_probe(stage, device, process, slack)
    raise SystemExit(code)


def main() -> None:
    """Run the command."""
    run_app(app)


def _resolve(
    terminal: Terminal,
    model: str,
    pretrained: str,
    quick_gelu: bool | None,
    tokenizer: str,
    *,
    rgb_first: bool,
    load_truncated: bool = False,
) -> catalog.ModelRecipe:
    _need(*_NEEDED)
    recipe = catalog.resolve_model(
        model,
        pretrained,
        quick_gelu=quick_gelu,
        tokenizer=tokenizer,
        rgb_first=rgb_first,
        load_truncated=load_truncated,
    )
    if recipe.activation.note:
        terminal.note(f"activation: {recipe.activation.note}")
    if recipe.weights.kind == "random":
        terminal.note(
            f"WARNING: the weights are RANDOM (seed {recipe.weights.name}). "
            "The bundle computes, and its vectors mean nothing"
        )
    return recipe


def _need(*packages: str) -> None:
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise ExportRefused(
            f"this needs packages that are not installed ({', '.join(missing)}): "
            "run `make export-model` in a checkout, or pip install 'warmclip[export]'"
        )


def _console() -> Console:
    """Where a table goes; a file or a pipe gets unfolded lines."""
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = 1000
    return console


def _certified(bundle: ModelBundle) -> tuple[str, str]:
    """The model and the weights that a bundle was made of, in the form of the options."""
    reference = json.loads(bundle.certificate().read_text(encoding="utf-8"))["reference"]
    return str(reference["model"]), str(reference["pretrained"])


def _check_name(name: str) -> None:
    if Path(name).name != name or name.startswith("."):
        raise ExportRefused(f"--name {name!r}: use the plain name of a folder; --out says where")


def _precisions(asked: list[str]) -> set[str]:
    """What ``--precision`` names, which may be a list with commas."""
    names = {name.strip() for part in asked for name in part.split(",")} - {""}
    unknown = sorted(names - set(get_args(Precision)))
    if unknown:
        raise ExportRefused(
            f"--precision {unknown[0]!r}: fp32 and fp16 are always made, int8 by request"
        )
    return names


def _answer(terminal: Terminal, report: dict[str, Any], lines: list[str], where: str) -> None:
    if terminal.as_json:
        terminal.json(report)
        return
    for line in lines:
        typer.echo(line)
    typer.echo(where)


@contextmanager
def _command(as_json: bool) -> Iterator[Terminal]:
    """Where the command writes; a refusal is one paragraph and the error's exit code."""
    terminal = Terminal(as_json=as_json)
    for name in (None, "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.ERROR)  # their warnings repeat ours
    try:
        yield terminal
    except WarmclipError as exc:
        terminal.error(exc)
        raise typer.Exit(exc.exit_code) from exc


@contextmanager
def _steps(total: int, *, hidden: bool) -> Iterator[Callable[[str], None]]:
    """A bar over named steps on a terminal; elsewhere a line for each."""
    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    bar_hidden = hidden or not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=bar_hidden) as progress:
        console.show_cursor()  # rich hides it, and whoever is stopped or killed would leave it so
        task = progress.add_task("", total=total, completed=-1)

        def step(what: str) -> None:
            progress.update(task, advance=1, description=what)
            if bar_hidden and not hidden:
                console.print(what)

        yield step


if __name__ == "__main__":
    main()
