"""Optimism as a section beside any preference objective (SELM, arXiv 2405.19332)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from cream.recipe.base import Section

if TYPE_CHECKING:
    from cream.algorithms.objective import Objective


class Optimism(Section):
    """Make an answer that the policy gave before training less likely, to explore beyond it."""

    alpha: float = Field(gt=0)
    """Weight, > 0. The paper's grid: 5e-3, 1e-3, 5e-4, 1e-4; chosen 1e-3 for Zephyr-7B-SFT, 1e-4
    for Llama-3-8B-Instruct."""
    scale: Literal["alpha_beta", "alpha"] = "alpha_beta"
    """Factor on the log-ratio: ``alpha_beta`` is eq. 4.2 and the code, ``alpha`` the algorithm box
    of the paper, and XPO."""
    answer: Literal["greedy", "sampled"] = "greedy"
    """Which answer of M_t. ``greedy``: one more decoding of the prompts at temperature 0, as the
    code does; it pushes the mode down from the first step. ``sampled``: the first completion of
    each prompt, drawn before any ranking; at temperature 1 and top-p 1 its expected gradient is 0
    at the start."""
    length_normalised: bool = False
    """Log-ratio per token of the answer, so that long answers are not pushed harder."""
    floor_nats: float | None = Field(default=None, gt=0)
    """The term ends where the log-ratio has fallen by so much, > 0; null: it has no bound, as in
    the paper."""
    by_consistency: bool = False
    """Times 2 (1 - C): none where the rankings agree. Ours."""

    def build(self, beside: Objective, *, beta: float) -> Objective:
        """The term as an objective, to be added to the preference it stands beside."""
        from cream.algorithms.optimism import optimism_term

        return optimism_term(
            self.model_dump_json(),
            beside,
            weight=self.alpha * (beta if self.scale == "alpha_beta" else 1),
            length_normalised=self.length_normalised,
            floor_nats=self.floor_nats,
            by_consistency=self.by_consistency,
        )
