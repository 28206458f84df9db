"""The questions by which a model judges a pair of its own answers, as sequences of its example.

Both orders are asked, and either label is a whole answer, end of turn included, so neither is a
prefix of the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from cream.algorithms.judging import VERDICT_LABELS, verdict_prompt, verdict_question
from cream.algorithms.scir import LABELS, ORDERS, RIGHT, SEED_LOGPS
from cream.engines.texts import Text, Unscorable, spells_any
from cream.errors import RunError
from cream.protocols import TextEncoder
from cream.recipe.columns import VERIFIER
from cream.recipe.scir import Scir
from cream.runs.tables import LOGP_PREFIX
from cream.types import Added, Example, RankedPair, TokenSequence

SAME_TEXT = "same_text"
"""Why a pair is not judged: its answers read alike, whatever their tokens."""
LEAST_SPREAD_NATS = 1e-3
"""Log-ratio gaps against M0 that spread less than this are rounding: M_t is M0."""


class Verdicts:
    """An `Addition`: both questions with both labels, and what the implicit judge compares with.

    Args:
        special: How special tokens are spelled; an answer that spells one is not shown.
        policy: M_t.
    """

    name = Scir.key
    columns: tuple[str, ...] = ()

    def __init__(self, *, special: Sequence[str], policy: str) -> None:
        self.special, self.policy = tuple(special), policy
        self.gaps: list[float] = []
        self.fingerprint = f"verdicts v1 {verdict_prompt('', '', '')} {VERDICT_LABELS}"

    def add(self, pair: RankedPair, encoder: TextEncoder) -> Added:
        """Roles ``verdict_first`` ... ``swapped_second``; columns also where nothing is asked."""
        self.gaps.append(self._gap(pair))
        columns = {
            **{name: pair.columns[f"{side}_{LOGP_PREFIX}M0"] for side, name in SEED_LOGPS.items()},
            RIGHT: right_side(pair),
        }
        texts = (pair.chosen.text, pair.rejected.text)
        if texts[0] == texts[1]:
            return Added(columns=columns, reason=SAME_TEXT)
        if any(
            spells_any(Text("", "", pair.prompt.messages, text), self.special) for text in texts
        ):
            return Added(columns=columns, reason=Unscorable.SPELLS_SPECIAL)
        sequences = {}
        for order, shown in zip(ORDERS, (texts, texts[::-1]), strict=True):
            asked = verdict_question(pair.prompt.messages, *shown)
            prompt = encoder.encode_prompt(asked)
            for label, letter in zip(LABELS, VERDICT_LABELS, strict=True):
                ids = encoder.encode_completion(asked, letter)
                sequences[f"{order}_{label}"] = TokenSequence(ids, prompt_token_ids=prompt)
        return Added(sequences, columns)

    def figures(self, examples: Sequence[Example]) -> Mapping[str, float | None]:
        """``implicit_spread``: standard deviation of the implicit judge's log-ratio gap, nats.

        Raises:
            RunError: It is rounding: M_t does not differ from M0, the reference of the reward.
        """
        spread = float(np.std(self.gaps))
        if len(self.gaps) > 1 and spread < LEAST_SPREAD_NATS:
            raise RunError(
                f"the log-ratios of {self.policy} against M0 differ by {spread:.1e} nats between "
                "pairs, so the implicit judge of scir has no opinion. Fine-tune M1 further (sft), "
                "or take another method."
            )
        return {"implicit_spread": spread}

    def _gap(self, pair: RankedPair) -> float:
        one, other = (
            pair.columns[f"{side}_{LOGP_PREFIX}{self.policy}"]
            - pair.columns[f"{side}_{LOGP_PREFIX}M0"]
            for side in SEED_LOGPS
        )
        return one - other


def right_side(pair: RankedPair) -> float:
    """1 where the first answer alone is right, -1 where the second is, 0 else or unknown."""
    values = [pair.columns.get(f"{side}_{VERIFIER}") for side in SEED_LOGPS]
    if None in values:
        return 0.0
    one, other = (float(value or 0.0) for value in values)
    return float(np.sign(one - other))
