"""The trial, with providers that go wrong for real in processes of their own."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from processes import read_commands
from small_disk import small_disk
from standins.faulty import environment
from warmclip.errors import CacheUnusable, ProviderUnavailable
from warmclip.fsutil import file_lock, private_folder
from warmclip.inference.bundle import ModelBundle, Tower
from warmclip.inference.machine import has_arm_bfloat16
from warmclip.inference.ort.compiled import CompiledModels
from warmclip.inference.ort.loading import find_provider
from warmclip.inference.ort.model_cache import ModelCache
from warmclip.inference.ort.session import OnnxSession
from warmclip.inference.providers import CPU, PROVIDERS, Provider
from warmclip.inference.selection.provider_selection import TOWERS, select_providers
from warmclip.inference.selection.trial import BATCHES, Trial, try_provider
from warmclip.inference.selection.trial_process import run_trial
from warmclip.inference.selection.trial_store import TrialStore, forget_trials, trials_folder

_DECIDE = """
import dataclasses, json, sys
from pathlib import Path
from warmclip.errors import WarmclipError
from warmclip.inference.bundle import ModelBundle
from warmclip.inference.selection.provider_selection import select_providers

bundle, home, choice, deadline_s = sys.argv[1:]
told = []
try:
    decided = select_providers(
        ModelBundle.open(bundle), choice, home=Path(home), deadline_s=float(deadline_s),
        progress=lambda *at: told.append(at),
    )
    print(json.dumps({"verdict": decided.to_dict(), "told": told}))
except WarmclipError as exc:
    print(json.dumps({"error": f"{type(exc).__name__}: {exc}", "told": told}))
"""

_OPEN = """
import sys
from pathlib import Path
from warmclip import Encoder

bundle, home = sys.argv[1:]
encoder = Encoder.open(bundle, home=Path(home), provider="auto")
encoder.encode_texts(["a"])
print(encoder.providers["text"])
"""


class Machine:
    """A home, and the decisions made in it."""

    def __init__(self, bundle: Path, home: Path) -> None:
        self.bundle = bundle
        self.home = home

    def command(self, choice: str, deadline_s: float) -> list[str]:
        """What decides in a process of its own."""
        told = [str(self.bundle), str(self.home), choice, str(deadline_s)]
        return [sys.executable, "-c", _DECIDE, *told]

    def decide(
        self,
        fault: str | None,
        choice: str = "auto",
        *,
        deadline_s: float = 60,
        variables: Mapping[str, str] | None = None,
    ) -> Any:
        """The answer: a verdict or an error, and the progress that was told."""
        done = subprocess.run(
            self.command(choice, deadline_s),
            env=environment(fault, **(variables or {})),
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def machine(demo_bundle: Path, tmp_path: Path) -> Machine:
    """One that has decided nothing yet."""
    return Machine(demo_bundle, tmp_path / "home")


def trials(decided: Any, provider: str) -> list[dict[str, Any]]:
    """What was found of a provider, by tower."""
    return [trial for trial in decided["trials"] if trial["provider"] == provider]


@pytest.mark.parametrize(
    ("fault", "reason", "variables"),
    [
        ("load", "was killed by SIGSEGV while loading", {}),
        ("abort", "SIGABRT while loading: the compiler is gone", {}),
        ("fail", "Error compiling model", {}),
        ("nth", "SIGABRT while computing golden vectors", {"FAULTY_N": "2"}),
        ("nth", "SIGABRT while timing batches of", {"FAULTY_N": "25"}),
        ("nan", "NaN, infinity or zero length", {}),
        ("zeros", "NaN, infinity or zero length", {}),
        ("wrong", "cosine 0.9999", {}),
        ("drift", "cosine 0.9999", {"FAULTY_N": "5"}),
        ("drift", "cosine 0.9999", {"FAULTY_N": "2"}),
    ],
)
def test_faulty_provider_ends_in_cpu(
    machine: Machine, fault: str, reason: str, variables: dict[str, str]
) -> None:
    """Whatever it does, both towers compute on the CPU, and the verdict says why."""
    decided = machine.decide(fault, variables=variables)["verdict"]
    assert decided["chosen"] == {"image": "cpu", "text": "cpu"}
    for trial in trials(decided, f"faulty-{fault}"):
        assert not trial["passed"]
        assert reason in trial["reason"]
        assert reason in decided["why"][trial["tower"]]
    assert all(trial["passed"] for trial in trials(decided, "cpu"))


@pytest.mark.parametrize("fault", ["hang", "loadhang"])
def test_hanging_provider_ends_in_cpu(machine: Machine, fault: str) -> None:
    """A process that hangs in native code is killed at its deadline, and leaves nothing behind."""
    answer = machine.decide(fault, deadline_s=10)
    decided = answer["verdict"]
    assert decided["chosen"] == {"image": "cpu", "text": "cpu"}
    for trial in trials(decided, f"faulty-{fault}"):
        assert "gave no answer within 10 s, while" in trial["reason"]
    assert len(answer["told"]) > 10  # about one a second, so that nobody takes us for hung
    assert running_trials(machine) == []


def test_slow_provider_ends_in_cpu(machine: Machine) -> None:
    """It is right, and it is slower: it passes, and is not chosen."""
    decided = machine.decide("slow", variables={"FAULTY_SECONDS": "0.2"})["verdict"]
    assert decided["chosen"] == {"image": "cpu", "text": "cpu"}
    assert all(trial["passed"] for trial in trials(decided, "faulty-slow"))
    assert "faulty-slow" in decided["why"]["image"]


def test_fast_provider_that_is_right(machine: Machine) -> None:
    """It is chosen, and the figures say why."""
    decided = machine.decide("none")["verdict"]
    assert decided["chosen"] == {"image": "faulty-none", "text": "faulty-none"}
    for trial in decided["trials"]:
        assert trial["passed"]
        assert trial["cosine"] > 0.99999
        assert trial["max_abs"] < 1e-5
        assert set(trial["images_per_s"]) == {"1", "8", "32"}
        assert trial["load_s"] > 0
        assert trial["peak_rss_mb"] > 10
        assert (trial["partitions"], trial["cpu_nodes"]) == (1, 0)


def test_compiled_models_are_kept(machine: Machine, tmp_path: Path) -> None:
    """A provider that compiles wins both towers; tried again, it finds its three models of each."""
    told = tmp_path / "told"
    variables = {"FAULTY_COMPILE_SECONDS": "0.2", "FAULTY_COMPILED": str(told)}
    decided = machine.decide("compiler", variables=variables)["verdict"]
    assert decided["chosen"] == {"image": "faulty-compiler", "text": "faulty-compiler"}
    assert told.read_text().split() == ["compiled"] * 6
    told.unlink()
    assert forget_trials(machine.home) == 4
    again = machine.decide("compiler", variables=variables)["verdict"]
    assert again["chosen"] == decided["chosen"]
    assert told.read_text().split() == ["cached"] * 6


def test_service_finds_what_the_trial_compiled(machine: Machine, tmp_path: Path) -> None:
    """Also where the bundle is named by a relative path, which is another key for CoreML."""
    told = tmp_path / "told"
    variables = {"FAULTY_COMPILED": str(told)}
    code = (
        "import sys; from pathlib import Path; from warmclip.inference.encoder import Encoder\n"
        "Encoder.open(sys.argv[1], provider='auto', home=Path(sys.argv[2])).warm()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, machine.bundle.name, str(machine.home)],
        cwd=machine.bundle.parent,
        env=environment("compiler", **variables),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = told.read_text().split()
    assert lines[:6] == ["compiled"] * 6
    assert set(lines[6:]) == {"cached"}


def test_models_of_the_loser_go(machine: Machine, tmp_path: Path) -> None:
    """What a provider has compiled that is not used does not stay on the disk for a month."""
    told = tmp_path / "told"
    variables = {"FAULTY_SECONDS": "1", "FAULTY_COMPILED": str(told)}
    decided = machine.decide("slowcompiler", deadline_s=100, variables=variables)["verdict"]
    assert decided["chosen"] == {"image": "cpu", "text": "cpu"}
    assert all(trial["passed"] for trial in trials(decided, "faulty-slowcompiler"))
    assert told.read_text().split() == ["compiled"] * 6
    assert not list((machine.home / "compiled").rglob("model"))


COMPILER = replace(
    CPU,
    name="faulty-compiler",
    is_reference=False,
    buckets=(1, 8, 32),
    cache_option="FaultyCacheDirectory",
)


def test_models_of_the_loser_stay_where_another_process_tried_it(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who only waited for that trial deletes nothing: the other one may be using it."""
    for provider in PROVIDERS.values():  # on a Mac, "auto" would also try CoreML
        own = replace(provider, in_auto=provider.is_reference)
        monkeypatch.setitem(PROVIDERS, provider.name, own)
    monkeypatch.setitem(PROVIDERS, COMPILER.name, COMPILER)
    bundle = ModelBundle.open(machine.bundle)
    private_folder(machine.home, private=False)
    private_folder(trials_folder(machine.home), private=False)
    store = TrialStore(bundle, machine.home, 0)

    def keep(provider: Provider, tower: Tower, rate: float) -> None:
        rates = dict.fromkeys(BATCHES, rate)
        trial = Trial(provider=provider.name, tower=tower, passed=True, images_per_s=rates)
        store._file(provider, tower).write_text(json.dumps(trial.to_dict()))

    for tower in TOWERS:
        keep(CPU, tower, 100.0)
    keep(COMPILER, "text", 1.0)
    models = store._compiled(COMPILER, "image")
    ModelCache(machine.home).load(models.identity(1), lambda folder: (folder / "model").touch())
    with ExitStack() as other:
        other.enter_context(file_lock(store.lock))

        def waited(*_: object) -> None:
            keep(COMPILER, "image", 1.0)
            other.close()

        selection = select_providers(bundle, "auto", home=machine.home, progress=waited)
    assert selection.chosen == {"image": "cpu", "text": "cpu"}
    assert models.cache.has(models.identity(1))


def test_disk_without_room_for_compiled_models(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The provider is not tried, the reason says what is needed, and the next start looks again."""
    monkeypatch.setitem(PROVIDERS, COMPILER.name, COMPILER)
    full = shutil.disk_usage("/")._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    bundle = ModelBundle.open(machine.bundle)
    selection = select_providers(bundle, "auto", home=machine.home)
    assert selection.chosen == {"image": "cpu", "text": "cpu"}
    needed = 7 * bundle.manifest.graphs["image"]["fp32"].size_bytes
    said = f"{needed / 1e6:.0f} MB of free space are needed for what it compiles"
    assert said in selection.why["image"]
    assert {file.name.partition("@")[0] for file in trials_folder(machine.home).iterdir()} == {
        *(".lock", "cpu")
    }
    with pytest.raises(CacheUnusable, match="MB of free space are needed"):
        OnnxSession(
            bundle.graph("image", "fp32"),
            COMPILER,
            digest="0",
            size_bytes=needed,
            cache=ModelCache(machine.home),
        )


def test_disk_that_others_fill_during_a_trial(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trial that finds no room is no result: it is not kept."""
    for name, value in environment("compiler").items():
        monkeypatch.setenv(name, value)
    # There was room when this process looked; the trial's own looks again.
    monkeypatch.setattr(CompiledModels, "require_space", lambda *_: None)
    with small_disk(machine.home, 120) as disk:
        private_folder(trials_folder(machine.home), private=False)
        disk.fill(20_000)
        store = TrialStore(ModelBundle.open(machine.bundle), machine.home, 0)
        trial = store.run_trial(COMPILER, "text", 120, lambda: None)
        assert "MB of free space are needed" in trial.reason
        assert store.find_trial(COMPILER, "text") is None


def test_trial_without_a_temporary_folder(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where none can be made, as on a full disk, a provider is tried all the same."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    bundle = ModelBundle.open(machine.bundle)
    trial = run_trial(bundle, CPU, "text", home=machine.home, threads=0, deadline_s=120)
    assert trial.passed, trial.reason


def test_compiler_that_fails_leaves_nothing(machine: Machine) -> None:
    """Its words are the reason, and no half of a model is taken for one later."""
    decided = machine.decide("compiler", variables={"FAULTY_COMPILE": "fails"})["verdict"]
    assert decided["chosen"] == {"image": "cpu", "text": "cpu"}
    for trial in trials(decided, "faulty-compiler"):
        assert "Error compiling model" in trial["reason"]
    assert not list((machine.home / "compiled").rglob("model"))


def test_silent_compiler_is_killed_and_its_half_is_no_model(
    machine: Machine, tmp_path: Path
) -> None:
    """What it left is compiled again by the next, which would compute nonsense with it."""
    told = tmp_path / "told"
    silent = {"FAULTY_COMPILE": "hangs", "FAULTY_COMPILED": str(told)}
    left = tmp_path / "left"
    left.mkdir()
    silent["TMPDIR"] = str(left)
    decided = machine.decide("compiler", deadline_s=30, variables=silent)["verdict"]
    assert decided["chosen"] == {"image": "cpu", "text": "cpu"}
    for trial in trials(decided, "faulty-compiler"):
        assert "gave no answer within 30 s, while loading" in trial["reason"]
    assert list(left.iterdir()) == []
    assert forget_trials(machine.home) > 0
    well = machine.decide("compiler", variables={"FAULTY_COMPILED": str(told)})["verdict"]
    assert well["chosen"] == {"image": "faulty-compiler", "text": "faulty-compiler"}
    assert told.read_text().split() == ["compiled"] * 6


def test_disk_that_is_full(machine: Machine, tmp_path: Path) -> None:
    """The provider is not tried, as it says; once there is room again, it is by the next start."""
    with small_disk(machine.home, 120) as disk:
        disk.fill(20_000)
        decided = machine.decide("compiler")["verdict"]
        assert decided["chosen"] == {"image": "cpu", "text": "cpu"}
        for trial in trials(decided, "faulty-compiler"):
            assert "MB of free space are needed" in trial["reason"]
        assert not list((machine.home / "compiled").rglob("model"))
        disk.empty()
        told = tmp_path / "told"
        well = machine.decide("compiler", variables={"FAULTY_COMPILED": str(told)})["verdict"]
        assert well["chosen"] == {"image": "faulty-compiler", "text": "faulty-compiler"}
        assert told.read_text().split() == ["compiled"] * 6


def test_compiled_models_on_another_volume(machine: Machine, tmp_path: Path) -> None:
    """A link of one's own to a larger disk: they are compiled there, kept and found."""
    with small_disk(tmp_path / "disk", 250) as disk:
        machine.home.mkdir(mode=0o700)
        (machine.home / "compiled").symlink_to(disk.folder)
        told = tmp_path / "told"
        for expected in ("compiled", "cached"):
            decided = machine.decide("compiler", variables={"FAULTY_COMPILED": str(told)})
            assert set(decided["verdict"]["chosen"].values()) == {"faulty-compiler"}
            assert told.read_text().split() == [expected] * 6
            assert len(list(disk.folder.glob("*/model"))) == 6
            told.unlink()
            forget_trials(machine.home)


def test_processes_that_load_together_compile_once(machine: Machine, tmp_path: Path) -> None:
    """Of two that need the same models at once, one compiles each, and the other waits for it."""
    assert machine.decide("compiler")["verdict"]["chosen"]["text"] == "faulty-compiler"
    shutil.rmtree(machine.home / "compiled")
    told = tmp_path / "told"
    variables = {"FAULTY_COMPILE_SECONDS": "1", "FAULTY_COMPILED": str(told)}
    both = [
        subprocess.Popen(
            [sys.executable, "-c", _OPEN, str(machine.bundle), str(machine.home)],
            env=environment("compiler", **variables),
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    said = [process.communicate(timeout=240)[0] for process in both]
    assert said == ["faulty-compiler\n"] * 2
    assert sorted(told.read_text().split()) == ["cached"] * 3 + ["compiled"] * 3


@pytest.fixture
def compiler(machine: Machine, tmp_path: Path) -> Callable[..., tuple[Any, list[str]]]:
    """Decides where a provider compiles: the verdict, and what it has done for each model."""
    told = tmp_path / "told"

    def decide(**variables: str) -> tuple[Any, list[str]]:
        told.write_text("")
        variables |= {"FAULTY_COMPILED": str(told)}
        answer = machine.decide("compiler", variables=variables)
        return answer["verdict"], told.read_text().split()

    return decide


def open_encoder(machine: Machine, bundle: Path, **variables: str) -> tuple[str, str]:
    """What an Encoder's texts were computed on, and what it said of that."""
    done = subprocess.run(
        [sys.executable, "-c", _OPEN, str(bundle), str(machine.home)],
        env=environment("compiler", **variables),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    return done.stdout.strip(), done.stderr


def test_bundle_that_moved_after_it_was_compiled(
    machine: Machine, tmp_path: Path, compiler: Callable[..., tuple[Any, list[str]]]
) -> None:
    """No trial is run again; it is compiled for the new path, of which CoreML makes a key."""
    machine.bundle = Path(shutil.copytree(machine.bundle, tmp_path / "before"))
    assert compiler()[1] == ["compiled"] * 6
    machine.bundle = machine.bundle.rename(tmp_path / "after")
    verdict, did = compiler()
    assert (verdict["chosen"]["text"], did) == ("faulty-compiler", [])
    told = str(tmp_path / "told")
    for expected in ("compiled", "cached"):
        assert open_encoder(machine, machine.bundle, FAULTY_COMPILED=told)[0] == "faulty-compiler"
        assert set(Path(told).read_text().split()) == {expected}
        Path(told).unlink()


def test_system_that_was_upgraded(compiler: Callable[..., tuple[Any, list[str]]]) -> None:
    """What another build of it has tried and compiled counts for nothing; its own is kept."""
    for build, expected in (
        ("25B78", ["compiled"] * 6),
        ("25B78", []),
        ("25C56", ["compiled"] * 6),
        ("25C56", []),
    ):
        verdict, did = compiler(FAULTY_OS=build)
        assert (verdict["chosen"]["image"], did) == ("faulty-compiler", expected)


def test_home_with_a_space_keeps_what_is_compiled(
    machine: Machine, tmp_path: Path, compiler: Callable[..., tuple[Any, list[str]]]
) -> None:
    """Not inside it, as CoreML reads a path as a URL; another process finds it all the same."""
    machine.home = tmp_path / "my home"
    elsewhere = ModelCache(machine.home).folder
    before = set(elsewhere.iterdir()) if elsewhere.exists() else set()
    try:
        for expected in ("compiled", "cached"):
            verdict, did = compiler()
            assert (verdict["chosen"]["text"], did) == ("faulty-compiler", [expected] * 6)
            forget_trials(machine.home)
        assert not (machine.home / "compiled").exists()
    finally:
        for path in set(elsewhere.iterdir()) - before:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


@contextmanager
def read_only(folder: Path) -> Iterator[Callable[[], None]]:
    """A folder that cannot be written into, also by root, until what is yielded is called."""
    with small_disk(folder, 250) as disk:
        disk.forbid_writing()
        yield lambda: disk.forbid_writing(forbidden=False)


@contextmanager
def somebody_elses(folder: Path) -> Iterator[Callable[[], None]]:
    """A folder as ``sudo`` leaves it, until it is given back."""
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    folder.mkdir(mode=0o700)
    os.chown(folder, 12345, 12345)
    yield lambda: os.chown(folder, 0, 0)


UNUSABLE = {
    "read only": (read_only, "cannot be written into"),
    "somebody else's": (somebody_elses, "belongs to the user with the number 12345"),
}


@pytest.mark.parametrize("state", UNUSABLE)
def test_folder_of_compiled_models_that_cannot_be_used(
    machine: Machine, compiler: Callable[..., tuple[Any, list[str]]], state: str
) -> None:
    """The CPU computes, the reason names the folder, and once it is mended the provider is tried:
    nothing was learned of it.
    """
    make, said = UNUSABLE[state]
    folder = machine.home / "compiled"
    machine.home.mkdir(mode=0o700)
    with make(folder) as mend:
        verdict, did = compiler()
        assert verdict["chosen"] == {"image": "cpu", "text": "cpu"}
        assert f"{folder} {said}" in verdict["why"]["image"]
        assert did == []
        mend()
        verdict, did = compiler()
        assert (verdict["chosen"]["image"], did) == ("faulty-compiler", ["compiled"] * 6)


@pytest.mark.parametrize("state", UNUSABLE)
def test_folder_of_compiled_models_that_can_no_longer_be_used(
    machine: Machine, compiler: Callable[..., tuple[Any, list[str]]], state: str
) -> None:
    """A process that finds it so goes on with the CPU, without a quarantine for those after it."""
    make, said = UNUSABLE[state]
    assert compiler()[0]["chosen"]["text"] == "faulty-compiler"
    shutil.rmtree(machine.home / "compiled")
    with make(machine.home / "compiled") as mend:
        provider, log = open_encoder(machine, machine.bundle)
        assert (provider, said in log) == ("cpu", True), log
        mend()
        assert open_encoder(machine, machine.bundle)[0] == "faulty-compiler"


@pytest.mark.skipif(
    sys.platform == "darwin" or has_arm_bfloat16(), reason="this machine has a choice"
)
def test_cpu_alone_needs_no_trial(machine: Machine) -> None:
    """Where there is nothing to choose, start-up is as quick as before, and nothing is written."""
    answer = machine.decide(None)
    assert answer["verdict"]["chosen"] == {"image": "cpu", "text": "cpu"}
    assert "no trial" in answer["verdict"]["why"]["image"]
    assert answer["verdict"]["trials"] == []
    assert "CoreMLExecutionProvider" in answer["verdict"]["passed_over"]["coreml-fp16"]
    assert not machine.home.exists()


def test_verdict_is_kept(machine: Machine) -> None:
    """The second process tries nothing; another definition of the provider is tried anew."""
    first = machine.decide("abort")
    assert first["told"]
    second = machine.decide("abort")
    assert second["verdict"] == first["verdict"]
    assert second["told"] == []
    assert machine.decide("none")["told"]


def test_forgotten_provider_is_tried_again(machine: Machine) -> None:
    """What failed while the machine was busy may be tried once more, and only that."""
    machine.decide("abort")
    assert forget_trials(machine.home, "faulty") == 2
    stages = {stage for _, _, stage in machine.decide("abort")["told"]}
    assert stages == {"trying faulty-abort on images", "trying faulty-abort on texts"}
    assert forget_trials(machine.home) == 4


def test_provider_that_leaves_nodes_to_the_cpu(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Right vectors are not enough where an entry says that it takes the whole graph."""
    monkeypatch.setitem(
        PROVIDERS,
        "azure",
        replace(
            CPU,
            name="azure",
            execution_provider="AzureExecutionProvider",
            is_reference=False,
            takes_all=True,
        ),
    )
    try:
        find_provider("azure")
    except ProviderUnavailable as exc:
        pytest.skip(str(exc))
    trial = try_provider(
        ModelBundle.open(machine.bundle),
        PROVIDERS["azure"],
        "image",
        home=tmp_path,
        threads=0,
        stage=lambda _: None,
    )
    if trial.partitions is None:
        pytest.skip("this onnxruntime does not tell where nodes went")
    assert not trial.passed
    assert trial.partitions == 0
    assert "in 0 pieces and leaves" in trial.reason


def test_damaged_record_is_tried_again(machine: Machine) -> None:
    """A file that cannot be read costs time, not the start."""
    machine.decide("abort")
    for file in (machine.home / "verdicts").glob("*.json"):
        file.write_text("{")
    assert machine.decide("abort")["verdict"]["chosen"]["image"] == "cpu"


def test_processes_that_start_together_share_one_trial(machine: Machine) -> None:
    """Two workers that start at once do not try everything twice, nor disturb the timing."""
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    both = [
        subprocess.Popen(machine.command("auto", 60), env=environment("abort"), **pipes)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=240) for process in both]
    first, second = (json.loads(out)["verdict"] for out, _ in said)
    assert first == second
    warnings = "".join(err for _, err in said)
    assert warnings.count("faulty-abort is not used on images") == 1


def test_family_asked_for_by_name(machine: Machine) -> None:
    """One variant that is right is enough; the CPU is not among them."""
    decided = machine.decide(None, "faulty-none")["verdict"]
    assert decided["chosen"] == {"image": "faulty-none", "text": "faulty-none"}
    assert decided["why"]["image"] == "asked for by name"


def test_quarantined_provider(machine: Machine) -> None:
    """``auto`` passes it over and says so; by name it is an error with the way back."""
    code = (
        "import sys, pathlib; from warmclip.inference.selection.quarantine import Quarantine as Q\n"
        "Q(pathlib.Path(sys.argv[1])).add('faulty-none', 'two crashes in a row')"
    )
    subprocess.run([sys.executable, "-c", code, str(machine.home)], check=True)
    decided = machine.decide("none")["verdict"]
    assert decided["chosen"]["image"] == "cpu"
    assert "two crashes in a row" in decided["passed_over"]["faulty-none"]
    error = machine.decide("none", "faulty-none")["error"]
    assert error.startswith("ProviderUnavailable: ")
    assert "two crashes in a row" in error
    assert "warmclip doctor --retry-provider faulty-none" in error


def test_waiting_process_that_dies_takes_its_trial_with_it(
    machine: Machine, tmp_path: Path
) -> None:
    """A worker that is killed while it tries leaves no process that computes for nobody."""
    left = tmp_path / "left"
    left.mkdir()
    process = subprocess.Popen(
        machine.command("auto", 30),
        env=environment("sleep", TMPDIR=str(left)),
        stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 30
    while not running_trials(machine):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    while running_trials(machine):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert list(left.iterdir()) == []


def running_trials(machine: Machine) -> list[str]:
    """The trial processes of this home, which their command names."""
    return [
        command
        for command in read_commands().values()
        if "warmclip.inference.selection.trial" in command and str(machine.home) in command
    ]
