"""What tells right pairs from wrong ones: every column of a score matrix as a witness, C, the gap.

A witness is asked about one pair per prompt: the best and the worst completion by the ranking that
picks the pairs, before any filter, whatever the pairing rule and ``min_gap``. So witnesses that a
method reads and others are judged on the same pairs, and under ``filter: agreeing`` the pairs that
the filter dropped are judged too. Reads verdicts; decides nothing.

What a witness's word is worth is counted on seed items, where the right completion is known. M1
answers seed prompts that no model was fine-tuned on. Every sampled completion that is not the seed
completion is taken to be wrong, and the two are ordered as a pair of the method would be: by the
reward. How often that is right where the witness agrees, and where it does not, is what
`cream.algorithms.pair_consistency.calibrated_consistency` turns into the C of a pair. No verdict
and no answer of an unlabelled prompt is read. Ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float64

from cream.algorithms.consistency import null_variance, shrunken_level
from cream.algorithms.diagnostics import PairAccuracy, decided, witness_accuracy
from cream.algorithms.pair_consistency import (
    Calibration,
    WitnessVerdict,
    best_worst_agreement,
    witness_verdicts,
)
from cream.algorithms.ranking import RankAgreement
from cream.algorithms.statistics import Absent, bootstrap_auroc
from cream.errors import DataError
from cream.pair_records import Estimate
from cream.recipe.columns import EXTRACTED, JUDGE, REWARD_MODEL, SELF_CERTAINTY, VERDICT
from cream.recipe.pairing import PairingConfig
from cream.recipe.parts import Agreement, AnyQuantity, LogpQuantity, ScoreQuantity, Votes, models_of
from cream.stages.layout import Layout
from cream.stages.null import residual_rates
from cream.stages.pair import Members
from cream.types import ScoreMatrix

SCORE_WITNESSES = (JUDGE, REWARD_MODEL, VERDICT, SELF_CERTAINTY)
"""Score columns that may be asked, besides the log-probabilities of every model. Not the verifier:
it is what witnesses are judged by."""


def witness_quantities(
    matrix: ScoreMatrix, reward: AnyQuantity, compared: Iterable[AnyQuantity]
) -> tuple[AnyQuantity, ...]:
    """Every quantity of a matrix that can be asked about the order of a pair, each once.

    Args:
        matrix: Of each model its mean likelihood is asked; votes and scores if it has them.
        reward: The ranking that picks the pairs; it would agree with itself and is left out.
        compared: Quantities that the method compares, asked first if their columns are there.
    """
    found: list[AnyQuantity] = [q for q in compared if set(models_of(q)) <= set(matrix.logps)]
    found += [LogpQuantity(unit="mean_likelihood", model=model) for model in matrix.logps]
    if (matrix.labels.get(EXTRACTED, np.array([-1])) >= 0).any():
        found.append(Votes(column=EXTRACTED))
    found += [ScoreQuantity(column=name) for name in SCORE_WITNESSES if name in matrix.scores]
    return tuple(quantity for quantity in dict.fromkeys(found) if quantity != reward)


def witness_table(
    layout: Layout,
    asked_about: Members,
    witnesses: Sequence[AnyQuantity],
    correct: Float64[np.ndarray, " completion"],
) -> Mapping[AnyQuantity, Mapping[WitnessVerdict, PairAccuracy]]:
    """How often pairs are right where each witness agrees, disagrees, is tied, or has no value.

    Args:
        layout: The matrix.
        asked_about: Pairs, see `PairingResult.best_worst`.
        witnesses: Quantities of the matrix.
        correct: The verifier's labels: 1 right, 0 wrong, NaN not verified.

    Raises:
        DataError: A label is not 0, 1 or NaN.
    """
    m = asked_about
    chosen, rejected = _labels(layout, m, correct)
    return {
        witness: witness_accuracy(
            witness_verdicts(layout.quantity(witness), m.prompt, m.chosen, m.rejected),
            chosen,
            rejected,
        )
        for witness in witnesses
    }


def calibrate(
    matrix: ScoreMatrix,
    gold: Bool[np.ndarray, " completion"],
    wrong: Bool[np.ndarray, " completion"],
    reward: AnyQuantity,
    witness: AnyQuantity,
    rule: PairingConfig,
    *,
    source: str,
) -> Calibration:
    """Count pairs of a gold and a wrong completion of one prompt, each distinct pair once.

    Pairs whose rewards differ by no more than the noise of scoring are left out, as the method
    would make none of them, and so are pairs on which the witness is silent.

    Args:
        matrix: Scores of the seed completions and of the sampled ones.
        gold: Completions known to be right.
        wrong: Completions taken to be wrong. The rest is left out.
        reward: Quantity that picks the method's pairs.
        witness: Quantity that is asked about them.
        rule: Says whether truncated completions count.
        source: What the counts are to be called.

    Raises:
        DataError: A completion is both gold and wrong.
    """
    if (gold & wrong).any():
        raise DataError(
            f"{source}: {int((gold & wrong).sum())} completions are both gold and wrong"
        )
    layout = Layout(matrix, rule, reward)
    counted = layout.usable & layout.groups.distinct
    right, other = (counted & flags[layout.groups.rows] for flags in (gold, wrong))
    prompt, chosen, rejected = np.nonzero(right[:, :, None] & other[:, None, :])
    ordered = witness_verdicts(layout.quantity(reward), prompt, chosen, rejected)
    said = witness_verdicts(layout.quantity(witness), prompt, chosen, rejected)

    def pairs(by_reward: WitnessVerdict, by_witness: WitnessVerdict) -> int:
        return int(((ordered == by_reward) & (said == by_witness)).sum())

    yes, no = WitnessVerdict.AGREES, WitnessVerdict.DISAGREES  # with gold above wrong
    return Calibration(
        agree_right=pairs(yes, yes),
        agree_total=pairs(yes, yes) + pairs(no, no),
        disagree_right=pairs(yes, no),
        disagree_total=pairs(yes, no) + pairs(no, yes),
        source=source,
    )


AGREEMENT = {
    WitnessVerdict.AGREES: 1.0,
    WitnessVerdict.TIED: 0.5,
    WitnessVerdict.DISAGREES: 0.0,
    WitnessVerdict.UNSCORED: np.nan,
}


def predictors(
    layout: Layout,
    asked_about: Members,
    rates: RankAgreement | None,
    compared: Agreement | None,
    correct: Float64[np.ndarray, " completion"],
    seed: int,
) -> Mapping[str, Estimate]:
    """How well C, its variants and the reward gap tell right pairs from wrong ones.

    Args:
        layout: The matrix.
        asked_about: Pairs, see `PairingResult.best_worst`.
        rates: C_j per prompt, if rankings were compared.
        compared: Which.
        correct: The verifier's labels: 1 right, 0 wrong, NaN not verified.
        seed: Of the resamples of the intervals, the same for all that have the same pairs.
    """
    m, reward = asked_about, layout.quantity(layout.reward).values
    signals = {"reward_gap": reward[m.prompt, m.chosen] - reward[m.prompt, m.rejected]}
    if rates is not None and compared is not None:
        signals["consistency"] = rates.values[m.prompt]
        rest = residual_rates(layout, compared)
        if rest is not None:
            signals["residual"] = rest.values[m.prompt]
        if compared.statistic in ("kendall", "residual_kendall") and rates.defined.any():
            tau = 2 * shrunken_level(rates, null_variance(rates.members)) - 1
            size = np.maximum(layout.distinct.sum(axis=1), 2)
            signals["pair_level"] = best_worst_agreement(np.clip(tau, -1, 1), size)[m.prompt]
    return {name: _auroc(signal, layout, m, correct, seed) for name, signal in signals.items()}


def agreement_auroc(
    layout: Layout,
    asked_about: Members,
    witness: AnyQuantity,
    correct: Float64[np.ndarray, " completion"],
    seed: int,
) -> Estimate:
    """How well a witness's agreement tells right pairs from wrong ones."""
    m = asked_about
    verdicts = witness_verdicts(layout.quantity(witness), m.prompt, m.chosen, m.rejected)
    signal = np.array([AGREEMENT[WitnessVerdict(code)] for code in verdicts.tolist()], dtype=float)
    return _auroc(signal, layout, m, correct, seed)


def _auroc(
    signal: Float64[np.ndarray, " pair"],
    layout: Layout,
    asked_about: Members,
    correct: Float64[np.ndarray, " completion"],
    seed: int,
) -> Estimate:
    right, wrong = decided(*_labels(layout, asked_about, correct))
    known = (right | wrong) & ~np.isnan(signal)
    prompts = asked_about.prompt[known]
    generator = np.random.default_rng(seed)
    found = bootstrap_auroc(signal[known], right[known], generator, clusters=prompts)
    if isinstance(found, Absent):
        return Estimate(n=int(known.sum()), absent=str(found))
    return Estimate(estimate=found.estimate, low=found.low, high=found.high, n=found.num_items)


def _labels(
    layout: Layout, pairs: Members, correct: Float64[np.ndarray, " completion"]
) -> tuple[Float64[np.ndarray, " pair"], Float64[np.ndarray, " pair"]]:
    rows = layout.groups.rows
    chosen, rejected = rows[pairs.prompt, pairs.chosen], rows[pairs.prompt, pairs.rejected]
    return correct[chosen], correct[rejected]
