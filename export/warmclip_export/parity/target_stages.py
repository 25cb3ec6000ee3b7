"""The stages of one target: towers, batches, runs, the encoder, scores, searches."""

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from warmclip.errors import ImageUnreadable, ProviderUnavailable, WarmclipError
from warmclip.inference.arrays import Vectors, unit_rows
from warmclip.inference.bundle import ModelBundle, Tower
from warmclip.inference.encoder import Encoder
from warmclip.inference.ort.session import OnnxSession
from warmclip_export.catalog import ModelRecipe
from warmclip_export.fp16.emulation import emulate_fp16
from warmclip_export.parity.comparison import (
    BothTowers,
    Comparison,
    largest_differences,
    mean_distance,
)
from warmclip_export.parity.compatibility import Compatibility
from warmclip_export.parity.corpus import Corpus
from warmclip_export.parity.finding import Finding, Measure
from warmclip_export.parity.gate import BATCHES, Feeds
from warmclip_export.parity.input_stages import INPUTS
from warmclip_export.parity.reference_outputs import BATCH, ReferenceOutputs
from warmclip_export.parity.result import Record, Spread
from warmclip_export.parity.retrieval import Searches
from warmclip_export.parity.targets import Target

Rows: TypeAlias = npt.NDArray[np.int64]
"""Which rows of the corpus, in which order."""

RUNS = 20
_TOWERS: tuple[Tower, ...] = get_args(Tower)
_REBATCHED = 32  # rows that are computed again in other batches
_REPEATED = 8  # rows that are computed again and again
_NO_DISTANCE = 1e-12


class TargetStages:
    """Measures one target and adds what it finds to a record."""

    def __init__(
        self,
        record: Record,
        bundle: ModelBundle,
        corpus: Corpus,
        expected: ReferenceOutputs,
        target: Target,
    ) -> None:
        self._record = record
        self._bundle = bundle
        self._corpus = corpus
        self._expected = expected
        self._target = target
        self._feeds: dict[Tower, Feeds] = {
            "image": {"pixel_values": expected.pixels},
            "text": {"input_ids": expected.ids, "eot_onehot": expected.eot_onehot},
        }
        self._towers: BothTowers = {tower: _missing(expected, tower) for tower in _TOWERS}
        self._ends: BothTowers = {}
        self._notes: dict[Tower, str] = {}

    def check_towers(self) -> None:
        """Each graph, fed with open_clip's own pixels and tokens."""
        for tower in _TOWERS:
            try:
                everything = np.arange(len(self._expected.vectors[tower]))
                self._towers[tower] = self._embed(self._load(tower), tower, everything, BATCH)
            except WarmclipError as exc:
                self._notes[tower] = str(exc)
            self._compare(f"{tower} {self._target}", tower, self._towers[tower])

    def check_emulated(self) -> None:
        """float16 with every result rounded, where the CPU computed it in float32."""
        if self._target.precision != "fp16" or not self._target.provider.is_reference:
            return
        for tower in _TOWERS:
            theirs = self._expected.vectors[tower]
            rows = _spread_out(len(theirs), _REBATCHED)
            ours, note = np.full_like(theirs[rows], np.nan), ""
            try:
                graph = self._bundle.graph(tower, "fp16")
                feeds = {name: array[rows] for name, array in self._feeds[tower].items()}
                ours = unit_rows(emulate_fp16(graph, feeds), self._bundle.manifest.dim)
            except WarmclipError as exc:
                note = str(exc)
            comparison = Comparison(
                stage=f"{tower} fp16 emulated", bounds=self._target.bounds, note=note
            )
            self._record.findings += comparison.of_vectors(ours, theirs[rows])

    def check_repeatability(self) -> None:
        """A vector depends neither on its batch nor on its neighbours, nor on the run."""
        bounds = self._target.bounds
        for tower in _TOWERS:
            if tower in self._notes:
                continue  # there is nothing to repeat, and it was said why
            batches = f"{tower} {self._target}, in batches"
            self._add_finding(
                batches, "largest difference", bounds.batches, self._difference_over_batches, tower
            )
            runs = f"{tower} {self._target}, {RUNS} runs"
            if bounds.runs == 0:
                self._add_finding(runs, "runs that differ", 0, self._count_different_runs, tower)
            else:
                self._add_finding(
                    runs, "largest difference", bounds.runs, self._difference_over_runs, tower
                )

    def check_encoder(self) -> None:
        """From files and strings to unit vectors; where the runtime never computes so, towers."""
        if not self._target.is_served:
            self._ends = self._towers
            return
        self._notes.clear()
        self._ends = {tower: _missing(self._expected, tower) for tower in _TOWERS}
        # In a home of its own: a bundle that is wrong would put the provider into the quarantine
        # that workers heed, and one that is there already is to be measured all the same.
        with tempfile.TemporaryDirectory(prefix="warmclip-parity-") as home:
            try:
                self._encode(Path(home))
            except WarmclipError as exc:
                self._ends = {tower: _missing(self._expected, tower) for tower in _TOWERS}
                self._notes = dict.fromkeys(_TOWERS, str(exc))
        for tower in _TOWERS:
            self._compare(f"{tower}s end to end, {self._target}", tower, self._ends[tower])

    def check_compatibility(
        self, recipe: ModelRecipe, own: Searches, others: BothTowers, other: Searches
    ) -> None:
        """Scores, searches, and whether a collection may be shared, with either activation.

        Args:
            recipe: of the model.
            own: searches among open_clip's vectors, computed with the bundle's activation.
            others: open_clip's vectors, computed with the other one.
            other: searches among those.
        """
        quick = recipe.activation.quick_gelu
        near = self._compare_all(self._expected.vectors, own)
        far = self._compare_all(others, other)
        self._record.findings += near.scores_and_searches
        own_distance = mean_distance(self._ends, self._expected.vectors)
        times_nearer = mean_distance(self._ends, others) / max(own_distance, _NO_DISTANCE)
        self._record.findings.append(
            Finding(
                stage=f"other activation, {self._target}",
                measure="times nearer",
                figure=times_nearer,
                threshold=self._target.bounds.times_nearer,
                note=self._note,
            )
        )
        # A right graph makes wrong vectors of wrong pixels.
        failed_inputs = [it for it in self._record.findings if it.stage in INPUTS and not it.passed]
        for is_own, comparisons in ((True, near), (False, far)):
            with_quick = quick is is_own
            self._record.compatibilities.append(
                Compatibility(
                    target=str(self._target),
                    is_served=self._target.is_served,
                    activation="quick_gelu" if with_quick else "gelu",
                    is_own=is_own,
                    made_by=recipe.call(quick_gelu=with_quick),
                    findings=(*failed_inputs, *comparisons.all),
                    is_nearest=times_nearer > 1 if is_own else times_nearer < 1,
                )
            )

    def _compare_all(self, theirs: BothTowers, searches: Searches) -> "_Comparisons":
        """Compare our vectors, scores and searches with those of a reference."""
        ours, bounds, note = self._ends, self._target.bounds, self._note
        vectors = [
            Comparison(stage=f"{tower} vectors", bounds=bounds, note=note).of_vectors(
                ours[tower], theirs[tower]
            )
            for tower in _TOWERS
        ]
        scores = Comparison(stage=f"scores, {self._target}", bounds=bounds, note=note)
        found = Comparison(stage=f"searches, {self._target}", bounds=bounds, note=note)
        return _Comparisons(
            vectors=(*vectors[0], *vectors[1]),
            scores_and_searches=(
                *scores.of_scores(ours, theirs),
                *found.of_searches(ours, searches),
            ),
        )

    @property
    def _note(self) -> str:
        return "; ".join(dict.fromkeys(self._notes.values()))

    def _add_finding(
        self,
        stage: str,
        measure: Measure,
        threshold: float,
        compute: Callable[[Tower], float],
        tower: Tower,
    ) -> None:
        figure, note = math.nan, ""
        try:
            figure = compute(tower)
        except WarmclipError as exc:
            note = str(exc)
        self._record.findings.append(
            Finding(stage=stage, measure=measure, figure=figure, threshold=threshold, note=note)
        )

    def _difference_over_batches(self, tower: Tower) -> float:
        """The largest difference when rows run in other batch sizes among other neighbours."""
        expected = self._towers[tower]
        rows = _spread_out(len(expected), _REBATCHED)
        rng = np.random.default_rng(3)
        session = self._load(tower)
        orders = [rng.permutation(rows) for _ in BATCHES]
        return max(
            float(
                largest_differences(self._embed(session, tower, order, size), expected[order]).max()
            )
            for order, size in zip(orders, BATCHES, strict=True)
        )

    def _count_different_runs(self, tower: Tower) -> float:
        """How many runs of one batch are not the first, bit for bit."""
        runs = self._runs(tower)
        return sum(run.tobytes() != runs[0].tobytes() for run in runs)

    def _difference_over_runs(self, tower: Tower) -> float:
        """The largest difference between the runs of one batch."""
        runs = self._runs(tower)
        return max(float(largest_differences(run, runs[0]).max()) for run in runs)

    def _runs(self, tower: Tower) -> list[Vectors]:
        """The same batch again and again, half of the times in a session loaded anew."""
        rows = _spread_out(len(self._towers[tower]), _REPEATED)
        runs = []
        for _ in range(2):
            session = self._load(tower)
            runs += [self._embed(session, tower, rows, _REPEATED) for _ in range(RUNS // 2)]
        return runs

    def _encode(self, home: Path) -> None:
        name = self._target.provider.name
        encoder = Encoder.open(self._bundle.folder, provider=name, batch_size=BATCH, home=home)
        self._encode_pictures(encoder)
        self._ends["text"] = encoder.encode_texts(self._corpus.texts)
        used = set(encoder.providers.values())
        if used != {name}:
            raise ProviderUnavailable(f"asked for {name}, the encoder used {', '.join(used)}")

    def _encode_pictures(self, encoder: Encoder) -> None:
        refused = []
        items = ((row, entry.source) for row, entry in enumerate(self._corpus.pictures))
        for row, result in encoder.encode_each(items):
            if isinstance(result, ImageUnreadable):
                refused.append(f"{self._corpus.pictures[row].name}: {result}")
            else:
                self._ends["image"][row] = result.vector
        if refused:
            self._notes["image"] = f"{len(refused)} pictures refused, the first {refused[0]}"

    def _load(self, tower: Tower) -> OnnxSession:
        return OnnxSession(
            self._bundle.graph(tower, self._target.precision),
            self._target.provider,
            length=self._bundle.manifest.tokenizer.context_length,
        )

    def _embed(self, session: OnnxSession, tower: Tower, rows: Rows, batch: int) -> Vectors:
        """Unit vectors of some rows of open_clip's own input, (rows, dim)."""
        feeds = self._feeds[tower]
        parts = [
            session.run({name: array[rows[at : at + batch]] for name, array in feeds.items()})
            for at in range(0, len(rows), batch)
        ]
        return unit_rows(np.concatenate(parts), self._bundle.manifest.dim)

    def _compare(self, stage: str, tower: Tower, ours: Vectors) -> None:
        theirs, bounds = self._expected.vectors[tower], self._target.bounds
        comparison = Comparison(stage=stage, bounds=bounds, note=self._notes.get(tower, ""))
        self._record.findings += comparison.of_vectors(ours, theirs)
        self._record.spreads.append(
            Spread(
                stage=stage,
                target=str(self._target),
                tower=tower,
                differences=largest_differences(ours, theirs),
                threshold=bounds.difference,
            )
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Comparisons:
    vectors: tuple[Finding, ...]
    scores_and_searches: tuple[Finding, ...]

    @property
    def all(self) -> tuple[Finding, ...]:
        return (*self.vectors, *self.scores_and_searches)


def _missing(expected: ReferenceOutputs, tower: Tower) -> Vectors:
    return np.full_like(expected.vectors[tower], np.nan)


def _spread_out(n: int, wanted: int) -> Rows:
    """Some of n rows, from the first to the last."""
    return np.unique(np.linspace(0, n - 1, min(n, wanted)).astype(np.int64))
