"""How candidates are reranked in windows, and how the heads that score them are trained.

`RerankerConfig` is what ``cream rerank fit`` takes and its artifact keeps; `WindowConfig` alone
says how candidates are put to a model, with a trained artifact or without any training.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from cream.recipe.base import Section
from cream.recipe.columns import LISTWISE
from cream.recipe.model import ModelConfig, NonBlank
from cream.recipe.training import ComputeConfig, LoraConfig, OptimiserConfig

if TYPE_CHECKING:
    from cream.algorithms.listwise import ViewOptions

IDENTIFIERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""Letters that name the candidates of a window, in order."""


class WindowConfig(Section):
    """How the candidates of a query are put to a model, and how windows are made comparable."""

    size: int = Field(default=8, ge=2, le=len(IDENTIFIERS))
    """Most candidates of a window. Windows are disjoint and of nearly one size."""
    cut: Literal["random", "first_stage"] = "random"
    """``random``: a seeded shuffle is cut into windows. ``first_stage``: the order given is."""
    rotations: int = Field(default=1, ge=1)
    """How often a window is scored, each time with its identifiers moved on; at most as often as
    it has members, and then a bias of identifiers cancels. Scores are the mean."""
    view: Literal["list", "point"] = "list"
    """Which score ranks; the other is written beside it."""
    scale: Literal["none", "offset", "affine"] = "offset"
    """How a window's list scores are put on the scale of its point scores. ``offset``: moved to
    their mean. ``affine``: with the slope of least squares, >= 0, as well. ``none``: as they are,
    for heads whose training has calibrated them."""
    max_candidate_tokens: int = Field(default=256, ge=1)
    """Longer candidates are cut here, and counted."""
    instruction: NonBlank = "Judge which candidate answers the query best."
    """What the model is told before query and candidates."""
    token_budget: int = Field(default=4096, ge=1)
    """Most tokens, padding included, in one forward pass; a longer window goes alone."""


class RerankerSource(Section):
    """What scores the completions of a prompt in windows, in a run."""

    column: ClassVar = LISTWISE

    model: NonBlank = "policy"
    """``policy``: M_t scores its own completions by its answers, without training. ``seed``: M0
    does. Anything else is the folder of a reranker that ``cream rerank fit`` wrote, or of another
    model, or a hub id."""
    windows: WindowConfig | None = None
    """How completions are put to it; None: as a trained reranker was trained, otherwise the
    defaults. Of a trained one the instruction and the token limit stay. ``scale: affine`` is
    refused: it would tie windows whose views disagree."""


class RerankOptimiserConfig(OptimiserConfig):
    """The same for adapters; the heads have a learning rate of their own."""

    learning_rate: float = Field(default=1e-4, gt=0)
    """Peak learning rate of the adapters, > 0; heads alone do not read it."""
    batch_size: int = Field(default=8, ge=1)
    """Queries per step, all their candidates in one pool."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay, on matrices only."""


class HeadTraining(Section):
    """How the two heads, and adapters of the model if asked for, are trained on graded groups."""

    epochs: int = Field(default=3, ge=1)
    """Passes over the groups, each with windows and identifiers of its own."""
    list_loss: Literal["ranknet", "weighted_ranknet", "list_mle", "list_net"] = "ranknet"
    """Loss of the list view in a window."""
    point_weight: float = Field(default=1.0, ge=0)
    """alpha: factor on the loss of the point view."""
    calibration: Literal["pooled_kl", "variance", "none"] = "pooled_kl"
    """What pulls list scores to point scores, over all candidates of a step at once: a KL of
    softmaxes, its limit for high temperatures, or nothing."""
    calibration_weight: float = Field(default=1.0, ge=0)
    """lambda: factor on the calibration."""
    temperature: float = Field(default=1.0, ge=1)
    """tau of ``pooled_kl``; below 1 the largest scores alone would count."""
    adaptive: Literal["if_better", "always"] = "if_better"
    """``if_better``: calibrate only where the point view loses less on the same pairs."""
    pool: Literal["batch", "query"] = "batch"
    """Over which candidates the calibration is taken: all of a step, or each query's."""
    head_learning_rate: float = Field(default=1e-3, gt=0)
    """Peak learning rate of the heads, which are float32."""
    lora: LoraConfig | None = None
    """Adapters of the model, merged into a copy at the end; None: heads on a frozen model."""
    optimiser: RerankOptimiserConfig = RerankOptimiserConfig()
    """Schedule, clipping, batch size; learning rate of the adapters."""
    compute: ComputeConfig = ComputeConfig()
    """Memory and speed; a step is one micro-batch whose forward passes are cut, since its
    candidates are calibrated together."""

    def build(self) -> ViewOptions:
        """The loss."""
        from cream.algorithms import listwise

        def pooled_kl(scores: Any, point: Any) -> Any:
            return listwise.pooled_kl(scores, point, self.temperature)

        list_losses: dict[str, listwise.ListLoss] = {
            "ranknet": listwise.ranknet,
            "weighted_ranknet": listwise.weighted_ranknet,
            "list_mle": listwise.list_mle,
            "list_net": listwise.list_net,
        }
        calibrations: dict[str, listwise.Calibration | None] = {
            "pooled_kl": pooled_kl,
            "variance": listwise.score_variance,
            "none": None,
        }
        return listwise.ViewOptions(
            list_loss=list_losses[self.list_loss],
            point_weight=self.point_weight,
            calibration=calibrations[self.calibration],
            calibration_weight=self.calibration_weight,
            trust={"if_better": listwise.if_better, "always": listwise.always}[self.adaptive],
            pool_by_query=self.pool == "query",
        )


class RerankerConfig(Section):
    """A reranker: model, windows, training."""

    model: ModelConfig = ModelConfig()
    """Which model reads the candidates."""
    windows: WindowConfig = WindowConfig(scale="none")
    """How it is given them. Heads trained with a calibration need no ``scale``."""
    training: HeadTraining = HeadTraining()
    """How heads were, or are, trained."""
    seed: int = Field(default=0, ge=0)
    """Decides windows, identifiers and the order of groups."""
