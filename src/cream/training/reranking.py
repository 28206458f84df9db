"""Training of a reranker: two heads on the states of windows, and adapters of the model if asked.

A step is a few queries with all their candidates. Windows and identifiers are drawn anew in every
epoch; the calibration is over all candidates of a step, so a step is one micro-batch, and only its
forward passes are cut. Without adapters the model runs without gradients.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cream.algorithms.listwise import partition, views_loss
from cream.algorithms.objective import Auxiliary
from cream.errors import DataError
from cream.models.reranker import Heads
from cream.models.window_text import EncodedQuery, WindowEncoder
from cream.models.windows import Window, lay_out_windows, longest_extent, window_states
from cream.recipe.reranking import RerankerConfig
from cream.runs.seeds import derive_seed
from cream.runs.store import fingerprint
from cream.training.batches import steps_of
from cream.training.loop import Contribution, OnStep, Optimisation, Optimised, optimise
from cream.training.lora import adapters


@dataclass(frozen=True, slots=True)
class GradedGroup:
    """Candidates of one query with their labels."""

    group_id: str
    query: EncodedQuery
    candidates: tuple[tuple[int, ...], ...]
    """Tokens, cut where they are too long."""
    grades: tuple[float, ...]
    """Higher is better."""


def fit_heads(
    model: Any,
    groups: Sequence[GradedGroup],
    encoder: WindowEncoder,
    config: RerankerConfig,
    *,
    state_dir: Path | None = None,
    on_step: OnStep | None = None,
    say: Callable[[str], None] | None = None,
) -> tuple[Heads, Optimised]:
    """Train heads, and with ``training.lora`` the model in place.

    Args:
        model: Causal language model in eval mode; float32 where it has adapters.
        groups: Of two or more candidates with grades that differ.
        encoder: Windows as tokens.
        config: Windows and training.
        state_dir: Folder from which an interrupted training goes on, or None.
        on_step: Called after every step.
        say: Told what a user should know at once.

    Returns:
        The heads, and metrics per step: ``loss``, ``loss/list``, ``loss/point``,
        ``loss/calibration``, ``calibration_weight``.

    Raises:
        DataError: No group, or two of one id.
        ModelError: The model cannot read several candidates in one sequence, or a window.
        TrainingError: A loss is not finite.
    """
    if not groups:
        raise DataError(
            "no group has two candidates of unequal labels, so there is nothing to train on. Give "
            "groups with `label` on their candidates, or judgements of the queries."
        )
    work = _Work(model, groups, encoder, config)
    training = config.training
    frozen = {name: p.requires_grad for name, p in model.named_parameters()}
    model.requires_grad_(training.lora is not None)
    try:
        with adapters(model, training.lora, seed=config.seed):
            done = optimise(
                model,
                work.optimisation(),
                training.optimiser,
                training.compute,
                dtype=torch.float32,
                seed=config.seed,
                state_dir=state_dir,
                on_step=on_step,
                say=say,
            )
    finally:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(frozen[name])
    return work.heads.eval(), done


class _Work:
    """The steps of a training, and the loss of one."""

    def __init__(
        self,
        model: Any,
        groups: Sequence[GradedGroup],
        encoder: WindowEncoder,
        config: RerankerConfig,
    ) -> None:
        self.groups, self.encoder, self.config = groups, encoder, config
        self.options = config.training.build()
        self.frozen = config.training.lora is None
        self.heads = Heads(model.config.get_text_config().hidden_size)
        self.device = next(model.parameters()).device
        self.heads.to(self.device)
        longest = longest_extent(model)
        extents = [self.windows(g, 0)[0][0].extent for g in range(len(groups))]
        if longest is not None and max(extents) > longest:
            name = groups[extents.index(max(extents))].group_id
            raise DataError(
                f"the query of group {name!r} with a candidate needs {max(extents)} positions and "
                f"the model has {longest}. Shorten it, or lower windows.max_candidate_tokens."
            )

    def optimisation(self) -> Optimisation:
        """What the optimisation loop takes: item e * N + i is group i in epoch e."""
        training, ids = self.config.training, [group.group_id for group in self.groups]
        steps = steps_of(
            ids,
            batch_size=training.optimiser.batch_size,
            epochs=training.epochs,
            seed=self.config.seed,
        )
        per_epoch = -(-len(ids) // training.optimiser.batch_size)
        items = [[[k // per_epoch * len(ids) + i for i in s]] for k, s in enumerate(steps)]
        own = Auxiliary(self.heads, training.head_learning_rate)
        data = [[g.group_id, g.query.prefix, g.candidates, g.grades] for g in self.groups]
        return Optimisation(
            items,
            self.contribute,
            max(len(window) for g in range(len(ids)) for window, _ in self.windows(g, 0)),
            fingerprint([self.config.model_dump(mode="json"), data]),
            {"heads": own},
            describe=lambda indices: [self.groups[i % len(ids)].group_id for i in indices],
        )

    def windows(self, group: int, epoch: int) -> list[tuple[Window, tuple[int, ...]]]:
        """Windows of a group in an epoch, each with its members."""
        one = self.groups[group]
        draw = random.Random(derive_seed(self.config.seed, "fit", epoch, one.group_id))  # noqa: S311
        order = list(range(len(one.candidates)))
        if self.config.windows.cut == "random":
            draw.shuffle(order)
        found = []
        for members in partition(order, self.config.windows.size):
            letters = draw.sample(range(len(members)), len(members))
            ids = [one.candidates[k] for k in members]
            found.append((self.encoder.window(one.query, ids, letters), members))
        return found

    def contribute(
        self, model: Any, indices: Sequence[int], step: Sequence[Sequence[int]]
    ) -> Contribution:
        """The whole loss of a step: `indices` are all its items."""
        grades, queries, numbers = list[float](), list[int](), list[int]()
        windows: list[Window] = []
        for item in indices:
            group, epoch = item % len(self.groups), item // len(self.groups)
            for window, members in self.windows(group, epoch):
                grades += [self.groups[group].grades[k] for k in members]
                queries += [group] * len(members)
                numbers += [len(windows)] * len(members)
                windows.append(window)
        scores, points = self.heads(*self.states(model, windows))
        found = views_loss(
            scores,
            points,
            torch.tensor(grades, device=self.device),
            torch.tensor(queries, device=self.device),
            torch.tensor(numbers, device=self.device),
            self.options,
        )
        one = torch.ones((), device=self.device)
        metrics = {
            "loss/list": (found.list_view, one),
            "loss/point": (found.point_view, one),
            "loss/calibration": (found.calibration, one),
            "calibration_weight": (found.calibration_weight * one, one),
        }
        return Contribution(found.loss, metrics, sum(map(len, windows)))

    def states(self, model: Any, windows: Sequence[Window]) -> tuple[Tensor, Tensor]:
        """States at ENDs and read-outs, forward passes of at most the token budget."""
        most = self.config.training.compute.micro_batch_tokens
        parts: list[list[Window]] = []
        for window in windows:
            widest = max([len(window), *map(len, parts[-1])]) if parts else 0
            if parts and (len(parts[-1]) + 1) * widest <= most:
                parts[-1].append(window)
            else:
                parts.append([window])
        with torch.no_grad() if self.frozen else nullcontext():
            states = [window_states(model, lay_out_windows(p, self.device)) for p in parts]
        ends, readouts = zip(*states, strict=True)
        return torch.cat(ends), torch.cat(readouts)
