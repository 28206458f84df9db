"""Pairs as a task of the optimisation loop: token ids to objective inputs to a loss.

What an objective needs beside the policy's log-probabilities is joined here, by pair id.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cream.algorithms.objectives import PairLogps, preference_metrics
from cream.recipe.training import TrainingConfig
from cream.training.batches import (
    PairBatch,
    micro_batches,
    separate_length,
    separate_pair_batch,
    shared_length,
    shared_pair_batch,
    steps_of,
)
from cream.training.forward import Route, inference_behaviour
from cream.training.loop import Contribution, Task
from cream.training.objective import Objective, ObjectiveInputs, TokenLogps
from cream.types import TokenisedPair


class PairTask:
    """The pairs of one stage, cut into steps, with the loss of a micro-batch."""

    def __init__(
        self,
        model: Any,
        pairs: Sequence[TokenisedPair],
        objective: Objective,
        route: Route,
        device: torch.device,
    ) -> None:
        self.pairs = pairs
        self.objective = objective
        self.route = route
        self.device = device
        self.start: dict[str, tuple[Tensor, Tensor]] = {}
        if objective.needs_start_logps:
            self._score_start(model)

    def task(self, config: TrainingConfig, *, seed: int, fingerprint: str) -> Task:
        """Cut the pairs into steps and micro-batches."""
        shared = self.route.layout == "shared"
        length = shared_length if shared else separate_length
        steps = []
        for step in steps_of(
            [p.pair_id for p in self.pairs],
            batch_size=config.optimiser.batch_size,
            epochs=config.epochs,
            seed=seed,
        ):
            cut = micro_batches(
                [length(self.pairs[i]) for i in step],
                token_budget=config.compute.micro_batch_tokens,
            )
            steps.append([[step[j] for j in part] for part in cut])
        longest = max(map(shared_length if shared else longest_of, self.pairs))
        return Task(
            steps,
            self.contribute,
            longest,
            fingerprint,
            self.objective.auxiliary,
            self.route.decoder,
        )

    def contribute(
        self, model: Any, indices: Sequence[int], step: Sequence[Sequence[int]]
    ) -> Contribution:
        """Return the mean loss of a step's pairs as far as this micro-batch goes."""
        pairs = [self.pairs[i] for i in indices]
        step_pairs = sum(len(part) for part in step)
        inputs = self._inputs(model, pairs)
        losses = self.objective(inputs) * self._column([p.weight for p in pairs])
        metrics = preference_metrics(inputs.policy, inputs.reference, beta=self.objective.beta)
        tokens = [shared_length(p) for p in pairs]
        if self.route.layout == "separate":
            tokens = [n + len(p.prompt_ids) for n, p in zip(tokens, pairs, strict=True)]
        return Contribution(
            losses.sum() / step_pairs,
            {name: value.sum() / step_pairs for name, value in metrics.items()},
            sum(tokens),
        )

    def _inputs(self, model: Any, pairs: Sequence[TokenisedPair]) -> ObjectiveInputs:
        chosen, rejected = self._token_logps(model, pairs)
        start_chosen = start_rejected = None
        if self.start:
            start_chosen = _padded([self.start[p.pair_id][0] for p in pairs], chosen)
            start_rejected = _padded([self.start[p.pair_id][1] for p in pairs], rejected)
        return ObjectiveInputs(
            chosen,
            rejected,
            PairLogps(
                self._column([p.reference_chosen_logps for p in pairs]),
                self._column([p.reference_rejected_logps for p in pairs]),
            ),
            self._column([p.consistency for p in pairs]),
            start_chosen,
            start_rejected,
        )

    def _token_logps(
        self, model: Any, pairs: Sequence[TokenisedPair]
    ) -> tuple[TokenLogps, TokenLogps]:
        batch = self._batch(pairs)
        table = batch.tokens.table(self.route.token_logps(model, batch.tokens))
        mask = batch.tokens.mask()
        return (
            TokenLogps(table[batch.chosen], mask[batch.chosen]),
            TokenLogps(table[batch.rejected], mask[batch.rejected]),
        )

    def _batch(self, pairs: Sequence[TokenisedPair]) -> PairBatch:
        build = shared_pair_batch if self.route.layout == "shared" else separate_pair_batch
        return build(pairs).to(self.device)

    def _column(self, values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=self.device)

    def _score_start(self, model: Any) -> None:
        """Keep token log-probabilities of the policy as it is now, before any step or restore."""
        with torch.no_grad(), inference_behaviour(model, gradient_checkpointing=False):
            for pair in self.pairs:
                chosen, rejected = self._token_logps(model, [pair])
                self.start[pair.pair_id] = (
                    chosen.values[0][chosen.mask[0]],
                    rejected.values[0][rejected.mask[0]],
                )


def _padded(rows: Sequence[Tensor], like: TokenLogps) -> TokenLogps:
    values = torch.zeros_like(like.values)
    return TokenLogps(values.masked_scatter(like.mask, torch.cat(list(rows))), like.mask)


def longest_of(pair: TokenisedPair) -> int:
    """Tokens of the longer of the two sequences of a pair."""
    return len(pair.prompt_ids) + max(len(pair.chosen_ids), len(pair.rejected_ids))
