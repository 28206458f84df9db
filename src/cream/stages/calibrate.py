"""What a witness's word is worth: counted on seed items, where the right completion is known.

M1 answers seed prompts that no model was fine-tuned on. Every sampled completion that is not the
seed completion is taken to be wrong, and the two are ordered as a pair of the method would be: by
the reward. How often that is right where the witness agrees, and where it does not, is what
`cream.algorithms.pair_consistency.calibrated_consistency` turns into the C of a pair. No verdict
and no answer of an unlabelled prompt is read. Ours.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool

from cream.algorithms.pair_consistency import Calibration, WitnessVerdict, witness_verdicts
from cream.errors import DataError
from cream.recipe.pairing import PairingRule
from cream.recipe.parts import AnyQuantity
from cream.stages.layout import Layout
from cream.types import ScoreMatrix


def calibrate(
    matrix: ScoreMatrix,
    gold: Bool[np.ndarray, " completion"],
    wrong: Bool[np.ndarray, " completion"],
    reward: AnyQuantity,
    witness: AnyQuantity,
    rule: PairingRule,
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
