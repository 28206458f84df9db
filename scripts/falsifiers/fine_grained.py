"""Which loss on minimal edits finds the wrong word? Misspelt news, a head on frozen states.

Sentences are of gensim's Lee corpus, misspellings of codespell's dictionary (GPL-2), both taken out
of wheels that pip fetches; neither is shipped. 220 sentences of different documents with one word
misspelt each, 151 of them to train on. The edit is the sentence as it was printed. A token is
touched if it lies in the misspelt word; states are those of the embedded model after each token.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from falsifiers.wheels import fetched
from falsify import Arm, Claim, Falsified
from torch import Tensor, nn

from cream.algorithms.alignment import text_spans, token_labels, token_offsets
from cream.algorithms.statistics import Interval, wilson_interval
from cream.algorithms.token_rewards import Side, bt_edit, bt_mean, token_ce
from cream.cache import cache_dir
from cream.errors import DataError
from cream.models.embedded import embedded_model
from cream.models.loading import load_model, load_tokenizer
from cream.training.token_head import Loss, ReadTokens, fit_token_head

SENTENCES, TRAINED = 220, 151
EPOCHS, SWAPPED_EPOCHS, RATE = 150, 40, 0.01
CORPUS = ("gensim", ["gensim/test/test_data/lee_background.cor"])
MISSPELLINGS = ("codespell", ["codespell_lib/data/dictionary.txt"])
EXPECTED = {
    "token_ce": (0.913, 0.826),
    "bt_edit": (0.860, 0.768),
    "bt_mean": (0.854, 0.754),
    "sequence head": (0.634, 0.217),
    "surprisal": (0.791, 0.420),
    "bt_mean, sides swapped": (0.502, 0.174),
}
"""AUROC and top-1 as measured when the method was specified, of one draw of sentences."""


@dataclass(frozen=True)
class Read(ReadTokens):
    """One side of a pair after the frozen model has read it."""

    logps: Tensor
    """``(token)``, of each token under the model."""


def misspelt(seed: int) -> list[tuple[str, str]]:
    """Misspelt sentences with the printed ones, one per document."""
    wrong: dict[str, list[str]] = {}
    (dictionary,), (corpus,) = fetched(*MISSPELLINGS), fetched(*CORPUS)
    for line in dictionary.splitlines():
        spelt, _, meant = line.partition("->")
        for word in filter(None, (w.strip() for w in meant.split(","))):
            if spelt.isalpha() and word.isalpha():
                wrong.setdefault(word, []).append(spelt)
    draw = random.Random(seed)
    documents = corpus.splitlines()
    draw.shuffle(documents)
    pairs = []
    for document in documents:
        candidates = [
            (sentence, word)
            for sentence in re.split(r"(?<=[.!?])\s+", document.strip())
            if 8 <= len(sentence.split()) <= 30
            for word in re.findall(r"\b[a-z]{5,}\b", sentence)
            if word in wrong
        ]
        if candidates:
            sentence, word = draw.choice(candidates)
            spelt = draw.choice(wrong[word])
            pairs.append((re.sub(rf"\b{word}\b", spelt, sentence, count=1), sentence))
        if len(pairs) == SENTENCES:
            return pairs
    raise DataError(f"only {len(pairs)} documents have a word with a known misspelling")


class Reader:
    """The embedded model, frozen."""

    def __init__(self) -> None:
        folder = embedded_model(cache_dir())
        self.model: Any = load_model(folder, dtype=torch.float32, device=torch.device("cpu"))
        self.tokenizer: Any = load_tokenizer(folder)

    def decode(self, ids: Sequence[int]) -> str:
        """Token ids to text."""
        return str(self.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))

    @torch.no_grad()
    def read(self, ids: Sequence[int], touched: Sequence[bool]) -> Read:
        """States after, and log-probabilities of, every token; an end token stands before them."""
        row = torch.tensor([[self.tokenizer.eos_token_id, *ids]])
        out = self.model(row, output_hidden_states=True)
        logps = out.logits[0, :-1].log_softmax(-1).gather(-1, row[0, 1:, None])[:, 0]
        return Read(out.hidden_states[-1][0, 1:], torch.tensor(touched), logps)

    def pair(self, wrong: str, right: str) -> tuple[Read, Read]:
        """Edit and original."""
        ids = [
            self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in (wrong, right)
        ]
        offsets = [
            token_offsets(i, t, self.decode) for i, t in zip(ids, (wrong, right), strict=True)
        ]
        spans = text_spans(wrong, right, "word")
        labels = token_labels(spans, *offsets, insertion_blame="next")
        return self.read(ids[1], labels.edited), self.read(ids[0], labels.original)


Pairs = Sequence[tuple[Read, Read]]
CENTRED = "bt_edit, centred states"
"""An arm of our own: without centring a head can lower a whole direction, which the original pays
for more often, since a misspelt word is more tokens."""
TOKEN_CE_CENTRED = "token_ce, centred states"
"""The default of ``reward: head``."""


def sequence_loss(edited: Side, original: Side) -> Tensor:
    """A reward model of whole texts: Bradley-Terry on the reward of the last token."""
    last = [
        side.rewards.gather(-1, side.there.sum(-1, keepdim=True) - 1)[:, 0]
        for side in (edited, original)
    ]
    return -nn.functional.logsigmoid(last[0] - last[1])


def auroc(values: np.ndarray, positive: np.ndarray) -> float:
    """Of higher values for positives, ties one half."""
    order = np.argsort(np.argsort(values, kind="stable"), kind="stable") + 1.0
    for value in np.unique(values):
        order[values == value] = order[values == value].mean()
    p, n = positive.sum(), (~positive).sum()
    return float((order[positive].sum() - p * (p + 1) / 2) / (p * n))


def measured(pairs: Pairs, reward: Callable[[Read], Tensor]) -> dict[str, float]:
    """How well low rewards find the touched tokens of originals."""
    rewards = [reward(original).numpy() for _, original in pairs]
    touched = [original.touched.numpy() for _, original in pairs]
    worst = [bool(marks[int(np.argmin(r))]) for r, marks in zip(rewards, touched, strict=True)]
    return {
        "AUROC": auroc(-np.concatenate(rewards), np.concatenate(touched)),
        "top-1": float(np.mean(worst)),
        "chance top-1": float(np.mean([marks.mean() for marks in touched])),
    }


def run(seeds: int) -> Falsified:
    """Draw sentences, read them once, fit every head."""
    reader = Reader()
    figures: dict[str, dict[str, list[float]]] = {}
    for seed in range(1, seeds + 1):
        pairs = [reader.pair(*texts) for texts in misspelt(seed)]
        trained, held_out = pairs[:TRAINED], pairs[TRAINED:]
        draw = random.Random(seed)
        swapped = [(a, b) if draw.random() < 0.5 else (b, a) for a, b in trained]
        arms: dict[str, tuple[Pairs, Loss, bool, int]] = {
            "token_ce": (trained, token_ce, False, EPOCHS),
            TOKEN_CE_CENTRED: (trained, token_ce, True, EPOCHS),
            "bt_edit": (trained, bt_edit, False, EPOCHS),
            CENTRED: (trained, bt_edit, True, EPOCHS),
            "bt_mean": (trained, bt_mean, False, EPOCHS),
            "sequence head": (trained, sequence_loss, False, EPOCHS),
            "bt_mean, sides swapped": (swapped, bt_mean, False, SWAPPED_EPOCHS),
        }
        for name, (shown, loss, centre, epochs) in arms.items():
            head, _ = fit_token_head(
                shown, loss, graded=False, centre=centre, steps=epochs, learning_rate=RATE
            )
            told = measured(held_out, lambda read, h=head: h.trained_on(read.states).detach())
            for key, value in told.items():
                figures.setdefault(name, {}).setdefault(key, []).append(value)
        for key, value in measured(held_out, lambda read: read.logps).items():
            figures.setdefault("surprisal", {}).setdefault(key, []).append(value)
    setting = (
        f"misspelt news sentences, {TRAINED} pairs to train on and {SENTENCES - TRAINED} held out "
        "per seed, a linear head on frozen states of the embedded model"
    )
    return Falsified(
        "fine_grained", setting, [Arm(n, f) for n, f in figures.items()], claims(figures)
    )


def claims(figures: dict[str, dict[str, list[float]]]) -> list[Claim]:
    """What must hold, and how near the rows are to those of the specification."""
    top = {name: found["top-1"] for name, found in figures.items()}
    area = {name: found["AUROC"] for name, found in figures.items()}
    over = {
        other: [a - b for a, b in zip(top["bt_mean"], top[other], strict=True)]
        for other in ("sequence head", "surprisal")
    }
    null = area["bt_mean, sides swapped"]
    found = [
        Claim(
            "top-1 of bt_mean is above the sequence head's by .3 or more",
            f"{_seen(over['sequence head'])} (expected +.54, s.e. .07)",
            min(over["sequence head"]) >= 0.3,
        ),
        Claim(
            "and above that of surprisal by .1 or more",
            f"{_seen(over['surprisal'])} (expected +.33)",
            min(over["surprisal"]) >= 0.1,
        ),
        Claim(
            "swapped sides give AUROC .5, within .05 in the mean of seeds",
            _seen(null),
            abs(float(np.mean(null)) - 0.5) <= 0.05,
        ),
        Claim(
            "no trained head is inverted (AUROC above .5)",
            "; ".join(f"{n} {_seen(area[n])}" for n in ("token_ce", "bt_edit", "bt_mean")),
            min(min(area[n]) for n in ("token_ce", "bt_edit", "bt_mean")) > 0.5,
        ),
    ]
    for name, (expected_area, expected_top) in EXPECTED.items():
        n = (SENTENCES - TRAINED) * len(top[name])
        interval = wilson_interval(round(float(np.mean(top[name])) * n), n)
        assert isinstance(interval, Interval)
        found.append(
            Claim(
                f"{name}: AUROC {expected_area:.3f} within .05, top-1 {expected_top:.3f} in the "
                "interval",
                f"AUROC {_seen(area[name])}; top-1 {_seen(top[name])}, together "
                f"{interval.estimate:.3f} [{interval.low:.3f}, {interval.high:.3f}] of {n}",
                abs(float(np.mean(area[name])) - expected_area) <= 0.05
                and interval.low <= expected_top <= interval.high,
                "as specified",
            )
        )
    return found


def _seen(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.3f}" for value in values)
