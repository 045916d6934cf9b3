"""Stage 6: every way to make a variant competes on the labelled images; the search adds ways where the first do not suffice."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fleet_protocol.identifiers import digest_of
from model_compiler import metrics
from model_compiler.inputs import Inputs
from model_compiler.metrics import Metric
from model_compiler.progress import Report, tracked
from model_compiler.samples import CalibrationSet
from model_compiler.search import contest
from model_compiler.search.bench import Bench
from model_compiler.search.contest import Found, Tried
from model_compiler.search.journal import Journal
from model_compiler.search.layers import noise_by_layer
from model_compiler.search.strategy import Effect
from model_compiler.stages import evaluate, gate
from model_compiler.stages.calibrate import Ranges
from model_compiler.stages.evaluate import Answers
from model_compiler.stages.gate import Trial
from model_compiler.stages.normalise import FloatModel
from model_compiler.stages.plan import Build
from model_compiler.stages.quantize import Candidate
from model_compiler.targets import target

_BASELINE: Final = "onnxruntime/fp32"


@dataclass(frozen=True, slots=True)
class Outcome:
    """Who competed and who won. Names are ``<variant>/<method>``; ``effects``: what the search learned about layers;
    ``layer_noise``: dB at each layer of the winners that are QDQ graphs. ``is_complete``: no search was interrupted.
    """

    metric: str
    baseline: Answers
    baseline_score: float
    made: dict[str, tuple[Build, Candidate]]
    answers: dict[str, Answers]
    trials: dict[str, Trial]
    chosen: list[str]
    effects: dict[str, list[Effect]]
    excluded: dict[str, tuple[str, ...]]
    layer_noise: dict[str, dict[str, float]]
    is_complete: bool


def compete(
    model: FloatModel,
    ranges: Ranges | None,
    builds: list[Build],
    inputs: Inputs,
    jobs: int,
    report: Report,
    journal: Path | None = None,
) -> Outcome:
    """Make, search, measure and choose one candidate per build; raises AccuracyRefused where the best is not good enough.

    ``journal``: where an interrupted search left what it had measured.
    """
    ring = _Ring(model, inputs, jobs, report)
    for build in tracked(report, "build", builds, len(builds)):
        ring.enter(build, target(build.runtime).candidates(model, build.precision, ranges, ring.samples))
    ring.measure()
    if ranges is not None:
        notes = Journal(journal)
        bench = Bench(model, ranges, ring.samples, ring.metric, notes, jobs)
        for build in builds:
            ring.search(build, bench)
        if ring.is_complete:
            notes.close()
    return ring.outcome()


class _Ring:
    """Candidates as they come, and what each answered."""

    def __init__(self, model: FloatModel, inputs: Inputs, jobs: int, report: Report) -> None:
        recipe = inputs.recipe
        self.metric: Metric = metrics.metric_of(inputs.task, recipe.preprocessing, recipe.gate.metric)
        self.samples = CalibrationSet(inputs.calibration, recipe.preprocessing)
        self._model, self._inputs, self._jobs, self._report = model, inputs, jobs, report
        self._made: dict[str, tuple[Build, Candidate]] = {}
        self._shares: dict[str, float] = {}
        self._answers: dict[str, Answers] = {}
        self._found: dict[str, Found] = {}
        self._truths: list[Any] = []

    def enter(self, build: Build, candidates: list[Candidate]) -> None:
        for candidate in candidates:
            self._made[f"{build.variant}/{candidate.method}"] = build, candidate

    def measure(self) -> None:
        """What every candidate and the fp32 baseline answer; all in one pass, so each image is decoded once."""
        contenders = {name: (build.runtime, candidate.model) for name, (build, candidate) in self._made.items()}
        contenders[_BASELINE] = "onnxruntime", self._model.content
        # The fp32 variant is the baseline's own file: equal files on one runtime are run once.
        same = {name: f"{runtime}/{digest_of(content)}" for name, (runtime, content) in contenders.items()}
        sessions = {
            same[name]: target(runtime).open_session(content, threads=1, optimised=True)
            for name, (runtime, content) in contenders.items()
        }
        found = self._evaluated(sessions)
        self._answers = {name: found[same[name]] for name in contenders}
        self._truths = evaluate.truths(self.metric, self._answers[_BASELINE], self._inputs.evaluation)

    def search(self, build: Build, bench: Bench) -> None:
        """Add what the search finds for ``build``, where its runtime takes quantized graphs and none yet suffices."""
        runtime = target(build.runtime)
        prefix = f"{build.variant}/"
        known = {name.removeprefix(prefix): each for name, each in self._answers.items() if name.startswith(prefix)}
        if build.precision != "int8" or any(self._suffices(build, answers) for answers in known.values()):
            return

        def measure(candidate: Candidate) -> Answers | None:
            made = runtime.from_qdq(candidate.model)
            if made is None:
                return None
            session = runtime.open_session(made, threads=1, optimised=True)
            self._made[prefix + candidate.method] = build, Candidate(candidate.method, made)
            return self._evaluated({"": session})[""]

        if runtime.from_qdq(bench.build(contest.NAIVE).model) is None:
            return
        found = contest.search(
            contest.landscape(self._model), bench, known, measure,
            lambda answers: self._suffices(build, answers), self._report,
        )  # fmt: skip
        self._found[build.variant] = found
        for method, tried in found.tried.items():
            self._add(prefix + method, tried)

    @property
    def is_complete(self) -> bool:
        """Whether every search so far went to its end."""
        return all(found.is_complete for found in self._found.values())

    def outcome(self) -> Outcome:
        trials = {name: self._trial(name) for name in self._made}
        variants = dict.fromkeys(trial.variant for trial in trials.values())
        wanted, baseline = self._inputs.recipe.gate, self._answers[_BASELINE]
        best = [gate.choose([trial for trial in trials.values() if trial.variant == each], wanted) for each in variants]
        score = self.metric.score(baseline.read, self._truths)
        gate.check(best, score, wanted, len(self._truths))
        return Outcome(
            metric=self.metric.name, baseline=baseline, baseline_score=score, made=self._made,
            answers=self._answers, trials=trials, chosen=[f"{trial.variant}/{trial.method}" for trial in best],
            effects={variant: found.effects for variant, found in self._found.items()},
            excluded={trial.variant: self._excluded(trial) for trial in best},
            layer_noise={trial.variant: found for trial in best if (found := self._layer_noise(trial))},
            is_complete=self.is_complete,
        )  # fmt: skip

    def _layer_noise(self, trial: Trial) -> dict[str, float]:
        build, candidate = self._made[f"{trial.variant}/{trial.method}"]
        if build.runtime != "onnxruntime" or build.precision != "int8":
            return {}
        return noise_by_layer(self._model, candidate.model, self.samples)

    def _excluded(self, trial: Trial) -> tuple[str, ...]:
        found = self._found.get(trial.variant)
        tried = found.tried.get(trial.method) if found else None
        return tried.excluded if tried else ()

    def _add(self, name: str, tried: Tried) -> None:
        self._answers[name], self._shares[name] = tried.answers, tried.float_share

    def _suffices(self, build: Build, answers: Answers) -> bool:
        return self._judged(build.variant, "", answers, 0.0).meets(self._inputs.recipe.gate)

    def _trial(self, name: str) -> Trial:
        build, candidate = self._made[name]
        return self._judged(build.variant, candidate.method, self._answers[name], self._shares.get(name, 0.0))

    def _judged(self, variant: str, method: str, answers: Answers, share: float) -> Trial:
        found = evaluate.verdict(self.metric, self._truths, self._answers[_BASELINE], answers)
        return Trial(variant, method, found.score, found.agreement, found.comparison, share, found.collapsed)

    def _evaluated(self, sessions: Any) -> dict[str, Answers]:
        recipe = self._inputs.recipe
        return evaluate.evaluate(
            sessions, self._inputs.evaluation, recipe.preprocessing, self._jobs, self._report, self.metric
        )
