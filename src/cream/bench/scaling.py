"""How the cost of a completion grows: with N, prompt length, number of prompts and model size.

Ours only. All values of a curve take turns, so a curve's shape is not the machine's drift.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from cream.bench.contest import Contestant, take_turns
from cream.bench.floors import Floor, Group, forward_seconds, sampling_seconds
from cream.bench.inputs import Subject, long_prompts, sampling_requests, scoring_requests
from cream.bench.machine import LoadWatch
from cream.bench.results import TimedPoint
from cream.engines.sampler import TorchSampler
from cream.engines.scorer import TorchScorer
from cream.protocols import SamplingParams

UNIT = "s/completion"
PROMPT_TOKENS = 400
"""Prompt length of the curves over N and over the number of prompts."""
NEW_TOKENS = 64


@dataclass(frozen=True, slots=True)
class Trial:
    """One value of what is varied."""

    run: Contestant
    least_seconds: float


@dataclass(frozen=True, slots=True)
class Curve:
    """Trials over one varied thing."""

    name: str
    x_name: str
    trials: Mapping[float, Trial]


def curves(subject: Subject, floor: Floor, *, quick: bool) -> Iterator[Curve]:
    """The curves of one model: N, prompt length, number of prompts."""
    prompts = 2 if quick else 8
    by_n = (4, 8, 16)
    yield Curve(
        "sampling",
        "N",
        {
            float(n): _sampling(subject, floor, [PROMPT_TOKENS] * prompts, n, quick=quick)
            for n in by_n
        },
    )
    yield Curve(
        "scoring",
        "N",
        {float(n): scoring_trial(subject, floor, PROMPT_TOKENS, prompts, n) for n in by_n},
    )
    lengths = [x for x in (128, 512, 1024) if fits(subject, x)]
    yield Curve(
        "sampling",
        "prompt tokens",
        {float(x): _sampling(subject, floor, [x] * prompts, 8, quick=quick) for x in lengths},
    )
    yield Curve(
        "scoring",
        "prompt tokens",
        {float(x): scoring_trial(subject, floor, x, prompts, 8) for x in lengths},
    )
    counts = (prompts // 2, prompts, 2 * prompts)
    yield Curve(
        "sampling",
        "prompts",
        {float(x): _sampling(subject, floor, [PROMPT_TOKENS] * x, 8, quick=quick) for x in counts},
    )


def fits(subject: Subject, prompt_tokens: int) -> bool:
    """Whether the model has positions for a prompt with its completion."""
    limit = subject.context_length
    return limit is None or prompt_tokens + max(NEW_TOKENS, 100) <= limit


def size_curve(subjects: Sequence[Subject], floor: Floor, *, quick: bool) -> Curve:
    """Scoring over the number of weights that each token is multiplied with."""
    prompts = 1 if quick else 4
    trials = {}
    for subject in subjects:
        weights = subject.shape.block_weights + subject.shape.head_weights
        trials[float(weights)] = scoring_trial(subject, floor, PROMPT_TOKENS, prompts, 8)
    return Curve("scoring", "weights", trials)


def _sampling(
    subject: Subject, floor: Floor, lengths: Sequence[int], n: int, *, quick: bool
) -> Trial:
    new = 8 if quick else NEW_TOKENS
    requests = sampling_requests(long_prompts(subject.encoder, lengths), n)
    params = SamplingParams(0.8, 0.95, new, ())
    sampler = TorchSampler(subject.model)

    def run() -> float:
        return float(sum(len(g.completions) for g in sampler.sample(requests, params)))

    groups = [Group(length, (new,) * n) for length in lengths]
    least = sampling_seconds(
        subject.shape, floor, groups, subject.dtype_name, subject.dtype.itemsize
    )
    return Trial(Contestant(f"sampling {lengths[0]} x {len(lengths)} x {n}", run), least)


def scoring_trial(
    subject: Subject, floor: Floor, prompt_tokens: int, prompts: int, n: int
) -> Trial:
    """Score completions of 60 to 100 tokens after prompts of one length."""
    lengths = (prompt_tokens, prompt_tokens)
    requests = scoring_requests(subject.encoder, prompts, n, lengths, (60, 100))
    scorer = TorchScorer(subject.model)

    def run() -> float:
        return float(sum(len(group.token_logps) for group in scorer.score(requests)))

    groups = [Group(len(r.prompt_token_ids), tuple(map(len, r.completions))) for r in requests]
    least = forward_seconds(subject.shape, floor, groups, subject.dtype_name)
    name = f"scoring {subject.name} {prompt_tokens} x {prompts} x {n}"
    return Trial(Contestant(name, run), least)


def measure_curve(curve: Curve, watch: LoadWatch, *, rounds: int) -> Iterator[TimedPoint]:
    """Time the trials of a curve in turns.

    Raises:
        BusyMachineError: Other processes use the cores.
    """
    what = f"{curve.name} over {curve.x_name}"
    watch.check(what)
    with watch.during(f"during {what}") as load:
        turns = take_turns([trial.run for trial in curve.trials.values()], rounds)
    for x, trial in curve.trials.items():
        done = turns[trial.run.name]
        yield TimedPoint(
            curve=curve.name,
            x=x,
            x_name=curve.x_name,
            value=1 / median(turn.rate for turn in done),
            unit=UNIT,
            n=rounds,
            floor_share=trial.least_seconds / median(turn.seconds for turn in done),
            foreign_cores=load.cores,
        )
