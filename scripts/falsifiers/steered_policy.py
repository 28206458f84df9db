"""A policy steered by the loop run once per user, and by choices as text, on answers of one letter.

Users like letters near the beginning of the alphabet, or near its end; the figure is the expected
place of the answer in the alphabet on prompts that no training has seen, 0 to 25.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from falsifiers.letters import LETTERS, encoder, fine_tuned, preferred, prompt, prompts, scored

from cream.algorithms.steering import Choices
from cream.engines.embedder import Embedder
from cream.engines.texts import Text
from cream.programs.steering_evaluation import reward_functions
from cream.recipe.objectives import Dpo
from cream.recipe.steering import SteeringConfig
from cream.training.examples import pair_example
from cream.training.steering import fit_steering
from cream.types import Message, TokenSequence

KNOWN, UNSEEN, SAMPLES, STEPS, BATCH, CONTEXT = 120, 40, 8, 30, 16, 10
FIT = SteeringConfig(components=32, latent=32, steps=200)
IDS = [encoder().encode_completion(prompt("a").messages, letter) for letter in LETTERS]


def places(model: Any, asked: Sequence[Sequence[Message]]) -> np.ndarray:
    """Probability of each letter after each conversation, over the letters alone."""
    rows = []
    for messages in asked:
        ids = torch.tensor([encoder().encode_prompt(messages)])
        with torch.no_grad():
            logits = model(ids).logits[0, -1, [i[0] for i in IDS]].double()
        rows.append(logits.softmax(-1).numpy())
    return np.array(rows)


def expected(probabilities: np.ndarray) -> float:
    """Mean place in the alphabet."""
    return float((probabilities @ np.arange(len(LETTERS))).mean())


def taste(words: int, late: bool, seed: int, count: int) -> Choices:
    """Choices among letters for words; completion number = 26 * word + letter."""
    draw = random.Random(seed)
    pairs = []
    for _ in range(count):
        word, (a, b) = draw.randrange(words), draw.sample(range(26), 2)
        first, second = (max(a, b), min(a, b)) if late else (min(a, b), max(a, b))
        pairs.append((26 * word + first, 26 * word + second))
    return Choices(np.array([a for a, _ in pairs]), np.array([b for _, b in pairs]))


def policies(seed: int) -> dict[str, dict[str, float]]:
    """Place of the answer for a user who likes early letters, and for one who likes late ones."""
    words = prompts(KNOWN + UNSEEN, seed)
    draw = random.Random(seed)
    start = fine_tuned(
        [(word, letter) for word in words for letter in draw.sample(LETTERS, 6)],
        seed=seed,
        epochs=6,
        rate=3e-3,
    )
    known = words[:KNOWN]
    embedder = Embedder(start, encoder(), token_budget=4096, context_length=None)
    texts = [
        Text(word, f"{26 * k + n}", prompt(word).messages, letter)
        for k, word in enumerate(known)
        for n, letter in enumerate(LETTERS)
    ]
    vectors = {e.text_id: e.vector for e in embedder.embed(texts)}
    embeddings = np.array([vectors[text.text_id] for text in texts], dtype=np.float32)
    users = [taste(KNOWN, bool(k % 2), 1000 * seed + k, 40) for k in range(40)]
    fit = fit_steering(embeddings, users, FIT.model_copy(update={"seed": seed}))
    rewards, pooled = reward_functions(fit.reward, embeddings)
    asked = [prompt(word).messages for word in words[KNOWN:]]
    probabilities = places(start, [prompt(word).messages for word in known])
    generator = np.random.default_rng(seed)
    sampled = [generator.choice(26, SAMPLES, p=row / row.sum()) for row in probabilities]
    found: dict[str, dict[str, float]] = {"M1": {"place": expected(places(start, asked))}}
    for name, late in (("early", False), ("late", True)):
        context = taste(KNOWN, late, 7000 + seed, CONTEXT)
        for arm, reward in (("loop", rewards(context)), ("loop, pooled reward", pooled)):
            model = looped(start, known, sampled, reward, seed)
            found.setdefault(arm, {})[name] = expected(places(model, asked))
        told = [(*as_text(known, context), *messages) for messages in asked]
        found.setdefault("context as text", {})[name] = expected(places(start, told))
    return found


def looped(
    start: Any, words: Sequence[str], sampled: Sequence[np.ndarray], reward: np.ndarray, seed: int
) -> Any:
    """One iteration: best against worst of the samples by the reward, DPO."""
    examples = []
    for k, (word, letters) in enumerate(zip(words, sampled, strict=True)):
        scores = reward[26 * k + letters]
        best, worst = letters[scores.argmax()], letters[scores.argmin()]
        if best != worst:
            sides = [TokenSequence(IDS[int(letter)]) for letter in (best, worst)]
            ids = encoder().encode_prompt(prompt(word).messages)
            examples.append(pair_example(word, ids, *sides))
    model = copy.deepcopy(start)
    examples = scored(model, examples)
    preferred(
        model, examples, Dpo(beta=0.1).build(), steps=STEPS, batch=BATCH, rate=1e-3, seed=seed
    )
    return model


def as_text(words: Sequence[str], context: Choices) -> tuple[Message, ...]:
    """Choices as turns: what was asked, and the answer that the user preferred."""
    return tuple(
        message
        for winner in context.winners.tolist()
        for message in (
            Message("user", words[winner // 26]),
            Message("assistant", LETTERS[winner % 26]),
        )
    )
