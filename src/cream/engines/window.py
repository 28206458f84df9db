"""Candidates scored in windows: a `TextScorer` that gives every text a list view and a point view.

What reads a window is trained heads (`HeadReader`) or the model's own answers (`AnswerReader`):
list view, the logits of the identifiers at the first answer position minus those in a window
without content; point view, logit Yes - logit No after the candidate.

Every text of a group is in exactly one window, decided by ids and seed alone, never by the order in
which texts come. Texts that are equal are scored once. A text without a score has a reason; one
alone in its group has a point view and no list view.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from cream.algorithms.judging import conversation
from cream.algorithms.listwise import (
    fitted_to_point_scale,
    identifier_shifts,
    moved_to_point_scale,
    partition,
)
from cream.engines.texts import Text, TextScore, Unscorable, special_texts, spells_any
from cream.errors import ModelError
from cream.models.hidden import require_inference_model
from cream.models.reranker import Heads
from cream.models.window_text import EncodedQuery, WindowEncoder
from cream.models.windows import Window, lay_out_windows, longest_extent, window_states
from cream.recipe.reranking import WindowConfig
from cream.runs.seeds import derive_seed

DETAILS = ("pointwise", "within", "window", "identifier", "tokens", "cut")
"""Of a text: its point view; its list view with the first identifiers, before windows were made
comparable; the number of its window in its group; the number of its first identifier; its tokens;
1 if it was cut. None where it has none."""
WITHOUT_CONTENT = "N/A"


class HeadReader:
    """Scores of trained heads."""

    trained = True

    def __init__(self, heads: Heads) -> None:
        self._heads = heads

    def read(
        self, ends: Tensor, readouts: Tensor, letters: Sequence[Sequence[int]]
    ) -> tuple[Tensor, Tensor]:
        """List and point scores, window by window; `letters` are the identifiers of each."""
        return self._heads(ends, readouts)


class AnswerReader:
    """Scores that are the model's own logits of letters, and of Yes against No."""

    trained = False

    def __init__(self, model: Any, encoder: WindowEncoder) -> None:
        self._head, self._encoder = model.get_output_embeddings(), encoder

    def read(
        self, ends: Tensor, readouts: Tensor, letters: Sequence[Sequence[int]]
    ) -> tuple[Tensor, Tensor]:
        """One row of logits per window for the list view, one per candidate for the point view."""
        row = [w for w, named in enumerate(letters) for _ in named]
        tokens = [self._encoder.identifiers[k] for named in letters for k in named]
        yes, no = self._encoder.yes_no
        point = self._logits(ends, [yes, no])
        return self._logits(readouts, tokens)[row, range(len(row))], point[:, 0] - point[:, 1]

    def _logits(self, states: Tensor, tokens: list[int]) -> Tensor:
        weight, bias = self._head.weight[tokens].float(), getattr(self._head, "bias", None)
        found = states @ weight.T
        return found if bias is None else found + bias[tokens].float()


@dataclass(frozen=True, slots=True)
class _Asked:
    """A window of a group, in one rotation."""

    group: int
    number: int
    members: tuple[int, ...]
    letters: tuple[int, ...]
    window: Window


@dataclass(slots=True)
class _Group:
    """Texts of one group that can be scored, each different, and what was found of them."""

    texts: list[Text]
    query: EncodedQuery
    candidates: list[tuple[int, ...]]
    cut: list[bool]
    windows: list[tuple[int, ...]]
    letters: list[tuple[int, ...]]
    """First identifiers, window by window."""
    views: dict[int, list[tuple[float, float]]]
    """Member to list and point view in each rotation."""


class WindowScorer:
    """A `TextScorer` on windows of candidates.

    Args:
        model: Causal language model in eval mode.
        encoder: Its windows as tokens.
        reader: What its states are read by.
        config: Sizes, rotations, scale.
        seed: Decides windows and identifiers.

    Raises:
        ModelError: The model cannot read several candidates in one sequence.
    """

    def __init__(
        self,
        model: Any,
        encoder: WindowEncoder,
        reader: HeadReader | AnswerReader,
        config: WindowConfig,
        *,
        seed: int,
    ) -> None:
        require_inference_model(model)
        self._model, self._encoder, self._reader = model, encoder, reader
        self._config, self._seed = config, seed
        self._longest = longest_extent(model)
        self._special = special_texts(encoder.tokenizer)
        self._device = next(model.parameters()).device
        self._plain: dict[int, Float64[np.ndarray, " letter"]] = {}
        self.tokens = 0
        """Tokens run through the model so far, padding excluded."""

    def score(self, texts: Sequence[Text]) -> Iterator[TextScore]:
        """Yield one score per text: the view that ranks, with `DETAILS` beside it.

        Raises:
            ModelError: The template refuses a query.
        """
        by_group: dict[str, list[Text]] = {}
        for text in texts:
            by_group.setdefault(text.group_id, []).append(text)
        groups: list[_Group] = []
        copies: dict[str, list[str]] = {}
        for members in by_group.values():
            reason = {t.text_id: self._refusal(t) for t in members}
            yield from (_absent(t.text_id, r) for t in members if (r := reason[t.text_id]))
            distinct: dict[str, Text] = {}
            for text in members:
                if reason[text.text_id] is None:
                    first = distinct.setdefault(text.response, text)
                    copies.setdefault(first.text_id, []).append(text.text_id)
            if distinct:
                groups.append(self._group(list(distinct.values())))
        self._run(groups)
        for group in groups:
            for text_id, score in self._scores(group):
                yield from (score.of(copy) for copy in copies[text_id])

    def _refusal(self, text: Text) -> Unscorable | None:
        if spells_any(text, self._special):
            return Unscorable.SPELLS_SPECIAL
        query = self._encoder.query(conversation(text.messages))
        needed = len(query.prefix) + self._encoder.reach + len(query.tail) + 1
        too_long = self._longest is not None and needed > self._longest
        return Unscorable.TOO_LONG if too_long else None

    def _group(self, texts: list[Text]) -> _Group:
        draw = random.Random(derive_seed(self._seed, "windows", texts[0].group_id))  # noqa: S311
        order = list(range(len(texts)))
        if self._config.cut == "random":
            order.sort(key=lambda k: texts[k].text_id)
            draw.shuffle(order)
        windows = partition(order, self._config.size)
        letters = [tuple(draw.sample(range(len(w)), len(w))) for w in windows]
        encoded = [self._encoder.candidate(text.response) for text in texts]
        return _Group(
            texts,
            self._encoder.query(conversation(texts[0].messages)),
            [ids for ids, _ in encoded],
            [cut for _, cut in encoded],
            windows,
            letters,
            {k: [] for k in order},
        )

    def _run(self, groups: Sequence[_Group]) -> None:
        """Fill the views of every group."""
        asked = [one for g, group in enumerate(groups) for one in self._asked(g, group)]
        asked.sort(key=lambda one: len(one.window), reverse=True)  # stable: rotations keep order
        for batch in _batches(asked, self._config.token_budget):
            scores, points = self._read([a.window for a in batch], [a.letters for a in batch])
            at = 0
            for one in batch:
                size = len(one.members)
                own = scores[at : at + size]
                if not self._reader.trained and size > 1:
                    own = own - self._without_content(size)[list(one.letters)]
                for member, score, point in zip(
                    one.members, own, points[at : at + size], strict=True
                ):
                    groups[one.group].views[member].append((float(score), float(point)))
                at += size

    def _asked(self, number: int, group: _Group) -> Iterator[_Asked]:
        for w, (members, first) in enumerate(zip(group.windows, group.letters, strict=True)):
            ids = [group.candidates[k] for k in members]
            for shift in identifier_shifts(len(members), self._config.rotations):
                letters = tuple((k + shift) % len(members) for k in first)
                window = self._encoder.window(group.query, ids, letters)
                yield _Asked(number, w, members, letters, window)

    def _read(
        self, windows: Sequence[Window], letters: Sequence[Sequence[int]]
    ) -> tuple[Float64[np.ndarray, " candidate"], Float64[np.ndarray, " candidate"]]:
        self.tokens += sum(map(len, windows))
        with torch.inference_mode():
            states = window_states(self._model, lay_out_windows(windows, self._device))
            scores, points = self._reader.read(*states, letters)
        return scores.cpu().double().numpy(), points.cpu().double().numpy()

    def _without_content(self, size: int) -> Float64[np.ndarray, " letter"]:
        """What letters get in a window of this size whose query and candidates say nothing."""
        if size not in self._plain:
            nothing, _ = self._encoder.candidate(WITHOUT_CONTENT)
            letters = range(size)
            query = self._encoder.query(WITHOUT_CONTENT)
            window = self._encoder.window(query, [nothing] * size, letters)
            self._plain[size] = self._read([window], [letters])[0]
        return self._plain[size]

    def _scores(self, group: _Group) -> Iterator[tuple[str, _Score]]:
        for number, (members, first) in enumerate(zip(group.windows, group.letters, strict=True)):
            views = np.array([group.views[k] for k in members])  # member, rotation, view
            within, point = views[:, 0, 0], views[:, 0, 1]
            listed = _scaled(views[:, :, 0].mean(1), point, self._config)
            for place, member in enumerate(members):
                alone = len(group.texts) == 1
                details = {
                    "pointwise": _finite(point[place]),
                    "within": None if alone else _finite(within[place]),
                    "window": float(number),
                    "identifier": float(first[place]),
                    "tokens": float(len(group.candidates[member])),
                    "cut": float(group.cut[member]),
                }
                ranks = point[place] if self._config.view == "point" else listed[place]
                no_list = alone and self._config.view == "list"
                value = None if no_list else _finite(ranks)
                reason = Unscorable.NO_OPPONENT if no_list else Unscorable.NOT_FINITE
                count = views.shape[1] if self._config.view == "list" else 1
                score = _Score(value, None if value is not None else reason, count, details)
                yield group.texts[member].text_id, score


@dataclass(frozen=True, slots=True)
class _Score:
    value: float | None
    reason: Unscorable | None
    count: int
    details: dict[str, float | None]

    def of(self, text_id: str) -> TextScore:
        """The score of this text, or of one that equals it."""
        count = 0 if self.value is None else self.count
        return TextScore(text_id, self.value, self.reason, count, self.details)


def _absent(text_id: str, reason: Unscorable) -> TextScore:
    return TextScore(text_id, None, reason, 0, dict.fromkeys(DETAILS))


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _scaled(
    scores: Float64[np.ndarray, " member"],
    point: Float64[np.ndarray, " member"],
    config: WindowConfig,
) -> Float64[np.ndarray, " member"]:
    match config.scale:
        case "none":
            return scores
        case "offset":
            return moved_to_point_scale(scores, point)
        case "affine":
            return fitted_to_point_scale(scores, point)


def _batches(asked: Iterable[_Asked], token_budget: int) -> Iterator[list[_Asked]]:
    """Cut windows, longest first, into batches of at most so many tokens with padding."""
    batch: list[_Asked] = []
    for one in asked:
        if batch and (len(batch) + 1) * len(batch[0].window) > token_budget:
            yield batch
            batch = []
        batch.append(one)
    if batch:
        yield batch


def window_scorer(
    model: Any,
    tokenizer: Any,
    template: str,
    heads: Heads | None,
    config: WindowConfig,
    *,
    seed: int,
) -> WindowScorer:
    """A scorer by trained heads, or by the model's own answers if there are none.

    Raises:
        ModelError: Model or tokenizer cannot be used for windows, or the heads are of another size.
    """
    encoder = WindowEncoder(tokenizer, template, config, trained=heads is not None)
    if heads is None:
        return WindowScorer(model, encoder, AnswerReader(model, encoder), config, seed=seed)
    size = model.config.get_text_config().hidden_size
    if heads.list.in_features != size:
        raise ModelError(
            f"the heads read states of {heads.list.in_features} numbers and the model has {size}"
        )
    device = next(model.parameters()).device
    return WindowScorer(model, encoder, HeadReader(heads.to(device)), config, seed=seed)
