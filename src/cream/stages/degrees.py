"""Versions of a pair's answers that lack key phrases, as further sequences of its example.

Texts are cut, never ids, and encoded again by the one template path; the whole answer keeps the ids
that were sampled. Versions stand under the pair's own prompt.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from cream.algorithms.degree import role_of
from cream.algorithms.keyphrases import (
    ENGLISH,
    key_phrases,
    length_rule_accuracy,
    removed_counts,
    without,
    words_of,
)
from cream.errors import CreamError, RunError
from cream.protocols import TextEncoder
from cream.recipe.degree import PreferenceDegree
from cream.runs.seeds import derive_seed
from cream.types import Added, Completion, Example, FinishReason, Message, RankedPair, TokenSequence

TOO_FEW, EMPTY, CUT_OFF, REFUSED = "too_few_phrases", "empty", "truncated", "refused_text"
"""Why an answer has no versions: too few phrases for K different ones; one would say nothing; it
has no end to read a state after; the chat template takes one of them for something else."""


class Degrees:
    """An `Addition`: the versions of both sides, or of one.

    A pair has versions of a side only if it has them of all sides that are read.
    """

    name = PreferenceDegree.key
    columns: tuple[str, ...] = ()

    def __init__(self, section: PreferenceDegree, *, seed: int) -> None:
        self.section, self.seed = section, seed
        self.fingerprint = f"degrees v1 {section.model_dump_json()} {seed}"
        self.sides = tuple(dict.fromkeys(section.sides))
        self.lengths: dict[str, list[int]] = {}

    def add(self, pair: RankedPair, encoder: TextEncoder) -> Added:
        """One version of each side, or all of them."""
        sequences: dict[str, TokenSequence] = {}
        lengths: dict[str, list[int]] = {}
        for side in self.sides:
            answer = pair.chosen if side == "chosen" else pair.rejected
            versions = self.versions(pair, answer, encoder)
            if isinstance(versions, str):
                return Added(reason=versions)
            lengths[side] = [len(ids) for ids in versions]
            for k in self._wanted(f"{pair.pair_id} {side}"):
                sequences[role_of(side, k)] = TokenSequence(versions[k])
        for side, found in lengths.items():
            self.lengths[f"{pair.pair_id} {side}"] = found
        return Added(sequences)

    def versions(
        self, pair: RankedPair, answer: Completion, encoder: TextEncoder
    ) -> list[tuple[int, ...]] | str:
        """Token ids by degree, or why there are none."""
        if answer.finish_reason != FinishReason.STOP:
            return CUT_OFF
        texts = self._texts(answer)
        if isinstance(texts, str):
            return texts
        try:
            return [answer.token_ids, *self._encoded(pair.prompt.messages, texts[1:], encoder)]
        except CreamError:  # the encoder says what of the text it cannot take
            return REFUSED

    def _texts(self, answer: Completion) -> list[str] | str:
        text, section = answer.text, self.section
        stop = ENGLISH if section.stop_words == "english" else frozenset(section.stop_words)
        phrases = [(phrase.start, phrase.end) for phrase in key_phrases(text, stop)]
        counts = removed_counts(len(phrases), degrees=section.degrees, ceiling=section.ceiling)
        if len(set(counts)) < len(counts):
            return TOO_FEW
        filler = section.filler if section.replace == "filler" else None
        taken = [phrases[:n] for n in counts]
        if section.removal == "random_words":
            taken = self._random(answer, taken)
        texts = [text if not spans else without(text, spans, filler=filler) for spans in taken]
        return EMPTY if not all(words_of(one) for one in texts) else texts

    def _random(
        self, answer: Completion, taken: Sequence[Sequence[tuple[int, int]]]
    ) -> list[list[tuple[int, int]]]:
        """As many words of the text, drawn from the answer's own seed, nested like the phrases."""
        words, text = words_of(answer.text), answer.text
        generator = np.random.default_rng(derive_seed(self.seed, "words", answer.completion_id))
        order = generator.permutation(len(words)).tolist()
        counts = [sum(len(words_of(text[a:b])) for a, b in spans) for spans in taken]
        return [[words[i] for i in order[:n]] for n in counts]

    def _encoded(
        self, messages: Sequence[Message], texts: Iterable[str], encoder: TextEncoder
    ) -> list[tuple[int, ...]]:
        return [encoder.encode_completion(messages, text) for text in texts]

    def _wanted(self, key: str) -> Sequence[int]:
        if self.section.versions == "all":
            return range(self.section.degrees)
        generator = np.random.default_rng(derive_seed(self.seed, "degree", key))
        return (int(generator.integers(self.section.degrees)),)

    def figures(self, examples: Sequence[Example]) -> Mapping[str, float | None]:
        """``length_only``: how often the length alone tells the degree; ``chance``: 1 / K.

        Raises:
            RunError: Fewer than ``min_share`` of the pairs have versions.
        """
        derived = sum(any(r.startswith("degree_") for r in e.sequences) for e in examples)
        if derived < self.section.min_share * len(examples):
            raise RunError(
                f"objective.degree: versions could be made of {derived} of {len(examples)} pairs "
                f"(the tally says why not), fewer than min_share {self.section.min_share:g}. "
                f"Answers need {self.section.degrees - 1} key phrases or more: take longer "
                "answers, lower degrees or min_share, or leave `degree` out."
            )
        rows = list(self.lengths.values())
        lengths = np.array(rows, dtype=np.int64).reshape(len(rows), self.section.degrees)
        labels = np.broadcast_to(np.arange(self.section.degrees), lengths.shape)
        told = length_rule_accuracy(lengths.ravel(), labels.ravel()) if len(rows) > 1 else None
        return {"length_only": told, "chance": 1 / self.section.degrees, "answers": len(rows)}
