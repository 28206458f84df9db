"""What a run tells of the pairs of an iteration, of edits, and of the rewards of tokens.

Records like those of `cream.records`; figures that read verdicts are for people and decide nothing.
"""

from __future__ import annotations

from pydantic import Field

from cream.records import Count, Counts, Rate, Record, Share
from cream.types import Tally


class Estimate(Record):
    """A rate, or an AUROC, with its 95 % interval; `n` is what it is computed from."""

    estimate: Rate | None = None
    low: Rate | None = None
    high: Rate | None = None
    n: Count = 0
    absent: str | None = None
    """Why there is none."""


class NullConsistency(Estimate):
    """C if the models were unrelated: mean and middle 95 % of `n` permutations within prompts."""

    shared: str | None = None
    """Model whose log-probabilities both rankings hold; null if none, and then C is 1/2."""
    gaussian: Rate | None = None
    """Of Gaussian ratings with the pooled variances, exactly; null but for Kendall's tau."""
    pair_level: Rate | None = None
    """Of best against worst, as two Gaussian raters have it; null but at the pair level."""


class ResidualConsistency(Estimate):
    """C by Kendall's tau of what two rankings do not share, over `n` prompts: 1/2 for noise."""

    first_slope: float | None = None
    """Of the first rating on the term that both hold, within prompts; 1 is the mark of noise."""
    second_slope: float | None = None


class Consistency(Record):
    """How far two rankings agreed, over the prompts of an iteration."""

    rate: float
    """Mean C, (tau + 1) / 2, with its 95 % bootstrap interval."""
    low: float
    high: float
    n: Count
    """Prompts where the rankings can be compared."""
    tau_mean: float | None
    """In [-1, 1]; null for TopOrder, which has no correlation."""
    tau_std: float | None
    """Over prompts; null for fewer than two."""
    share_below_half: Rate | None
    """Of prompts whose C is below 1/2."""
    undefined: Counts
    """Prompts without C, by reason."""
    null: NullConsistency | None = None
    """What C would be if the models were unrelated; null in older records."""
    residual: ResidualConsistency | None = None
    """C of what the rankings do not share; null in older records."""


class PairAccuracy(Record):
    """How often a pair is in the right order, of those where the verifier can tell."""

    n: Count
    """Decidable pairs: exactly one completion is right."""
    accuracy: Rate | None
    """Share of them whose chosen is the right one, with its 95 % Wilson interval."""
    low: Rate | None
    high: Rate | None
    counts: Counts
    """All pairs: right, wrong, both_right, both_wrong, unverified."""


class ReliabilityBin(Record):
    """Decidable pairs whose C lies in one bin."""

    predicted: Rate | None
    """Mean C."""
    observed: Rate | None
    """Share of right pairs."""
    n: Count


class WitnessAccuracy(Record):
    """How often pairs are right by what a witness says of them, with 95 % Wilson intervals.

    The pairs are best against worst of every prompt, those that are decidable.
    """

    agree_accuracy: Rate | None
    agree_n: Count
    agree_low: Rate | None
    agree_high: Rate | None
    disagree_accuracy: Rate | None
    disagree_n: Count
    disagree_low: Rate | None
    disagree_high: Rate | None
    silent_n: Count
    """Pairs for which the witness has no order."""
    auroc: Estimate | None = None
    """Of its agreement (1, tied 1/2, 0) for right pairs; null in older records."""


class CalibrationCounts(Record):
    """Pairs of known truth that a calibrated C rests on."""

    agree_right: Count
    agree_total: Count
    disagree_right: Count
    disagree_total: Count
    source: str
    """Which pairs they are."""


class PairSummary(Record):
    """What the pairs of an iteration are like; figures that read verdicts decide nothing."""

    reward: str
    """Quantity that ranks."""
    compared: str | None
    """The two quantities whose rankings were compared."""
    compared_picks_pairs: bool | None
    """Whether the first of them is the reward."""
    consistency: Consistency | None
    consistency_in_loss: Rate | None
    """Mean C that pairs are trained with; null where the loss is no mixture of both orders."""
    margin_fixed_point: float | None
    """logit of it, where the loss stops pulling; null at C = 1 or where there is none."""
    mean_gap: float | None
    """Mean reward gap, chosen minus rejected, in the unit of the reward; null without a pair."""
    mean_weight: float | None
    length_alpha: float | None
    """Reward per token taken off for length (DICE)."""
    tally: Tally
    """Prompts by outcome."""
    pair_tally: Tally
    """Candidate pairs by outcome."""
    pair_accuracy: PairAccuracy
    chosen_right: Share
    """Pairs whose chosen completion is right, of all whose chosen one has a verdict."""
    consistency_auroc: Rate | None
    """AUROC of C for right pairs, of the decidable ones."""
    reliability: list[ReliabilityBin] | None
    loss_consistency_auroc: Rate | None
    """The same of the C in the loss."""
    witnesses: dict[str, WitnessAccuracy]
    predictors: dict[str, Estimate] = Field(default_factory=dict)
    """AUROC for right pairs of C, residual C, C of the pair level, and of the reward gap."""
    chosen_from: Counts | None
    """Chosen completions by who made them; null if all are the policy's."""
    rejected_from: Counts | None
    kl_to_seed_per_token: float | None
    """Mean log-ratio of M_t against M0 on what M_t sampled, nats per token (estimator k1)."""
    kl_to_previous_per_token: float | None
    """The same against M_{t-1}."""
    noise: dict[str, float]
    """Noise floor of scoring per model, nats per square root of a token."""
    completions: Count
    """Sampled by the policy."""
    distinct: Count
    truncated: Count
    mean_completion_tokens: float | None
    chosen_tokens: float | None
    """Mean length of chosen completions, tokens; null without a pair."""
    rejected_tokens: float | None
    calibration: CalibrationCounts | None = None
    """Null unless C is calibrated."""
    unanimous: Share | None = None
    """What unanimous groups say and is trained on alone: how often it is right. Null unless the
    method trains on them."""


class EditSummary(Record):
    """What became of the completions of an iteration that edits them."""

    editor: str
    """Who edits: ``verifier``, ``file`` or ``model``."""
    tally: Tally
    """Completions: edited, or not by reason."""
    replaced_tokens: Count
    """Tokens of originals of accepted edits that were replaced, deleted, or blamed."""
    new_tokens: Count
    """Tokens that these edits brought."""
    original_tokens: Count
    """All tokens of these originals."""
    edited_tokens: Count
    """All tokens of the edited completions."""
    written_tokens: Count
    """Tokens that a model drew to edit; 0 for other editors."""


class TokenRewardSummary(Record):
    """What a column of token rewards holds."""

    tally: Tally
    """Completions: rewarded token by token, or without."""
    tokens: Count
    """Of those with rewards."""
    mean_reward: float | None
    """Mean over these tokens; null without any."""
    negative: Count
    """Tokens with a reward below 0."""
    positive: Count


class TokenHeadSummary(Record):
    """What a head learnt of the edits of an iteration; figures are of what it was trained on."""

    pairs: Count
    """Of an edit and its original."""
    tokens: Count
    """Of both, run through M0."""
    first_loss: float
    last_loss: float
    """Before the last step."""
    level: float
    """Mean reward of kept tokens, which is taken off all rewards."""
    mean_reward: dict[str, float | None]
    """Then, of tokens that are ``new`` in edits, ``replaced`` in originals, ``kept`` in either;
    null without any."""
