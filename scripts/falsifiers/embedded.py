"""The same questions on the embedded model: a comparison of a recipe, then what its models do.

``recipes/related/METHOD.yaml`` says what is trained, ``METHOD-arms.yml`` how; the first arm is the
baseline. Members of a seed share M1 and its samples, so arms differ in one training. What is in no
record of a run (both judges, heads, log-probs of held-out answers) is measured on its models.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from falsifiers import preference_degree as degree_world
from falsifiers import scir as scir_world
from falsifiers.letters import text_pair
from falsify import ROOT, Arm, Claim, Falsified, mean_of
from study import compare

from cream.algorithms.objective import Needs
from cream.algorithms.preference import PAIR
from cream.cache import cache_dir
from cream.cli.console import ConsoleProgress, messages
from cream.data.dedup import prompt_id
from cream.engines.scorer import TorchScorer
from cream.loop.context import Context
from cream.loop.training_examples import stage_examples
from cream.preflight.opening import check_run
from cream.records import TrainSummary
from cream.report.exploration import FoundBySamples, exploration_of
from cream.report.summary import summary_of
from cream.runs.reader import RunReader, rows_of
from cream.runs.store import Run
from cream.training.examples import BatchLayout
from cream.types import Example, Message, Prompt, RankedPair, ScoringRequest

RECIPES = ROOT / "recipes/related"
AT_ONCE = 10
"""Held-out pairs in one forward pass."""
HELD_OUT = 150
TRAINED, START = "M2", "M1"
Figures = dict[str, float]


class Member:
    """A run of the comparison, and the models that it left.

    What is held out is made by the first member of a seed, whose M0 and M1 all members share.
    """

    def __init__(self, run: Path, first: Member | None = None) -> None:
        self.run, self.reader, self.first = run, RunReader(run), first or self

    @cached_property
    def context(self) -> Context:
        """What reads the models."""
        progress = ConsoleProgress(messages(quiet=True))
        return check_run(
            self.reader.recipe,
            Run(self.run),
            progress,
            base_dir=RECIPES,
            cache_dir=cache_dir(),
        )

    def model(self, name: str) -> Any:
        """A model of the run in its compute dtype."""
        return self.context.checkpoints.for_inference(name)

    @property
    def seed(self) -> int:
        """Of the run."""
        return self.reader.recipe.seed

    @cached_property
    def judged_pairs(self) -> list[Example]:
        """Test prompts with the right answer and that of another one, in a drawn order."""
        test, encoder = self.context.data.test[:HELD_OUT], self.context.encoder
        draw, pairs = random.Random(self.seed), []
        for asked in test:
            others = [p.answer for p in test if p.task == asked.task and p.answer != asked.answer]
            said = [str(asked.answer), str(draw.choice(others))]
            draw.shuffle(said)
            right = [text == asked.answer for text in said]
            pairs.append(scir_world.pair_of(asked.prompt_id, asked, said, right, encoder))
        return scir_world.examples_of(pairs, self.model("M0"), self.model(START), encoder)

    @cached_property
    def facts(self) -> list[RankedPair]:
        """Held-out questions with their true answer and the same said of another subject."""
        pairs = []
        for line in (RECIPES / "facts/test.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            turns = (Message("user", row["prompt"]),)
            asked = Prompt(prompt_id(turns), turns)
            said = row["completion"], row["wrong"]
            pairs.append(text_pair(asked.prompt_id, asked, said, self.context.encoder))
        return degree_world.referenced(pairs, self.model(START))

    @cached_property
    def rows(self) -> tuple[Needs, list[Example]]:
        """What was trained on."""
        stage = self.reader.needed("train", 1)
        objective = self.context.plan.phase_parts(stage.spec).build_objective()
        return objective.needs, stage_examples(self.context, stage.spec, objective.needs)[0]

    def cost(self) -> Figures:
        """What the training did, with the tokens of a pair's rows, and of DPO's row for it."""
        stage, (needs, examples) = self.reader.needed("train", 1), self.rows
        done, prompts = (
            stage.summary(TrainSummary),
            self.context.encode(self.context.data.prompts_for(1), 0),
        )
        return {
            "steps": float(done.steps),
            "steps taken": float(done.steps - done.steps_at_rounding),
            "pairs": float(done.tally.parts["trained"]),
            "seconds of training": stage.seconds,
            "tokens per pair": mean(
                [sum(BatchLayout(needs, True).row_lengths(e)) for e in examples]
            ),
            "of DPO": mean([len(p.token_ids) for p in prompts])
            + mean([sum(len(e.sequences[s].token_ids) for s in PAIR) for e in examples]),
        }


def reward_augmented(member: Member, name: str) -> Figures:
    """Greedy accuracy by what the model is told."""
    summary = summary_of(member.reader)
    found = {"none": next(m for m in summary.models if m.model == name).overall.accuracy}
    found |= {f"goal {g.goal}": g.overall.accuracy for g in summary.goals if g.model == name}
    return found | {"10 - 1": found["goal 10"] - found["goal 1"]}


def selm(member: Member, name: str) -> Figures:
    """Exploration apart for prompts that M1 has wrong and right, and the fall of M1's answer."""
    columns = ("prompt_id", "index", "text", "correct")
    tables = {model: stage.table(columns) for model, stage in member.reader.evaluations.items()}
    found = next(e for e in exploration_of(tables) if e.model == name)

    def of(part: FoundBySamples, where: str) -> Iterator[tuple[str, float]]:
        for key in ("greedy", "mean_at_k", "pass_at_k", "different"):
            value = getattr(part, key)
            if value is not None:
                yield f"{key}, {where}", value

    first = {
        key: (text, right) for key, i, text, right in rows_of(tables[START], *columns) if i < 0
    }
    wrong = [key for key, (_, right) in first.items() if not right]
    asked = answers(member, {key: [first[key][0]] for key in wrong})
    fall = mean(logps(member.model(name), asked)) - mean(logps(member.model(START), asked))
    drawn: dict[str, list[str]] = {}
    for key, i, text, _ in rows_of(tables[name], *columns):
        if i >= 0:
            drawn.setdefault(key, []).append(text)
    surprise = -mean(logps(member.model(name), answers(member, drawn)))
    return {
        "log p of M1's answer, wrong": fall,
        "entropy": surprise,
        **dict(of(found.first_wrong, "wrong")),
        **dict(of(found.first_right, "right")),
        "prompts wrong": float(found.first_wrong.n),
    }


def answers(member: Member, texts: Mapping[str, Sequence[str]]) -> list[ScoringRequest]:
    """Texts as answers to test prompts; empty ones, which have no token but the end, as well."""
    by_id = {p.prompt_id: p.messages for p in member.context.data.test}
    encoder = member.context.encoder
    return [
        ScoringRequest(
            key,
            encoder.encode_prompt(by_id[key]),
            tuple(encoder.encode_completion(by_id[key], text) for text in said),
        )
        for key, said in texts.items()
    ]


def logps(model: Any, asked: Sequence[ScoringRequest]) -> list[float]:
    """Log-prob sums of all answers, nats."""
    return [
        float(one.sum()) for group in TorchScorer(model).score(asked) for one in group.token_logps
    ]


def scir(member: Member, name: str) -> Figures:
    """Both judges of a model on held-out pairs."""
    return scir_world.measured(member.model(name), member.first.judged_pairs, AT_ONCE, shared=True)


def preference_degree(member: Member, name: str) -> Figures:
    """What heads tell of held-out versions, and what the implicit reward does.

    Of M1 nothing: the reward is against it, and it has no heads.
    """
    if name == START:
        return {}
    encoder, start, pairs = member.context.encoder, member.model(START), member.first.facts
    method: Any = member.reader.recipe.method
    every = method.objective.degree.model_copy(update={"versions": "all"})
    whole = every.model_copy(update={"removal": "key_phrases"})
    model = member.model(name)
    phrases, _ = degree_world.examples_of(pairs, whole, member.seed, encoder)
    own, length_only = degree_world.examples_of(pairs, every, member.seed, encoder)
    heads = degree_world.heads_of(model, member.run / "iteration-1/train/objective.safetensors")
    accuracy, predicted = degree_world.told(model, heads, own, every, AT_ONCE, shared=True)
    return {
        "degree accuracy": accuracy,
        "length only": length_only,
        "tau(k, -r)": degree_world.tau(model, start, phrases),
        "pair accuracy": degree_world.pair_accuracy(model, pairs),
        **{f"predicted at {k}": value for k, value in enumerate(predicted)},
    }


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


METHODS: dict[str, Callable[[Member, str], Figures]] = {
    "reward_augmented": reward_augmented,
    "preference_degree": preference_degree,
    "scir": scir,
    "selm": selm,
}


Of = Mapping[str, Mapping[str, Sequence[float]]]


def beyond(figures: Of, arm: str, other: str, key: str) -> Sequence[float]:
    """One arm's figure minus another's, seed by seed."""
    return [a - b for a, b in zip(figures[arm][key], figures[other][key], strict=True)]


def above(figures: Of, arm: str, other: str, key: str) -> Claim:
    """That an arm has more of something than another, by an interval above 0."""
    return _higher(f"{key}: {arm} above {other}", beyond(figures, arm, other, key))


def kept(figures: Of, arm: str, other: str, key: str) -> Claim:
    """That an arm has no less of something in the mean."""
    seen = mean_of(beyond(figures, arm, other, key))
    return Claim(f"{key}: {arm} no less than {other}", str(seen), seen.mean >= 0, "helps")


def _higher(says: str, values: Sequence[float]) -> Claim:
    seen = mean_of(values)
    return Claim(says, str(seen), seen.low > 0, "helps")


def claims(method: str, figures: Of) -> list[Claim]:
    """What would be good, as the specification of each method says it; nothing must hold here."""
    match method:
        case "scir":
            return [
                above(figures, "scir", "filter", "both right"),
                kept(figures, "scir", START, "accuracy implicit"),
                kept(figures, "scir", START, "accuracy judge"),
            ]
        case "preference_degree":
            return [
                above(figures, "joint", "probe", "degree accuracy"),
                above(figures, "joint", "probe", "tau(k, -r)"),
                kept(figures, "joint", "probe", "pair accuracy"),
            ]
        case "reward_augmented":
            return [
                _higher("augmented: goal 10 above goal 1", figures["augmented"]["10 - 1"]),
                above(figures, "augmented", "dpo", "goal 10"),
                above(figures, "augmented", "dpo_told_10", "goal 10"),
            ]
        case _:
            arms = [name for name in figures if name not in ("none", START)]
            wrong, right = "pass_at_k, wrong", "mean_at_k, right"
            return [
                claim
                for arm in arms
                for claim in (above(figures, arm, "none", wrong), kept(figures, arm, "none", right))
            ]


def run(method: str, seeds: int, folder: Path) -> Falsified:
    """The comparison, resumed if it was begun, and the figures of every arm."""
    arms = yaml.safe_load((RECIPES / f"{method}-arms.yml").read_text(encoding="utf-8"))["methods"]
    folder.parent.mkdir(parents=True, exist_ok=True)
    compare(RECIPES / f"{method}.yaml", folder, arms, [], range(seeds))
    told = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))
    figures: dict[str, dict[str, list[float]]] = {}
    for seed in range(seeds):
        first = None
        for arm in arms:
            member = Member(folder / arm["name"] / f"seed-{seed}", first)
            found = {arm["name"]: METHODS[method](member, TRAINED) | member.cost()}
            if first is None:
                first, found[START] = member, METHODS[method](member, START)
            for name, values in found.items():
                for key, value in values.items():
                    figures.setdefault(name, {}).setdefault(key, []).append(value)
    return Falsified(
        method,
        f"SmolLM2-135M-Instruct, recipes/related/{method}.yaml, one iteration, held-out data",
        [Arm(name, found) for name, found in figures.items()],
        claims(method, figures),
        baseline=arms[0]["name"],
        seconds=told["cost"]["seconds"],
    )
