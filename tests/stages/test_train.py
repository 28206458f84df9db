"""What the trainer gets is joined by id: sampled ids, never text tokenised again."""

import numpy as np
import pyarrow as pa
import pytest

from cream.stages.train import pair_examples, seed_examples
from cream.training.examples import completion_example
from cream.types import Example, Message, PairTable, Prompt, SeedExample, TokenSequence

PAIRS = PairTable(
    prompt_ids=np.array(["q", "p"], dtype=object),
    chosen_ids=np.array(["q-1", "p-0"], dtype=object),
    rejected_ids=np.array(["q-0", "p-2"], dtype=object),
    chosen_reward=np.array([1.0, 2.0]),
    rejected_reward=np.array([0.0, 1.0]),
    consistency=np.array([0.75, 0.5]),
    weight=np.array([1.0, 0.25]),
)
COMPLETIONS = pa.table(
    {
        "completion_id": ["p-0", "p-1", "p-2", "q-0", "q-1"],
        "token_ids": [[1, 0], [2, 0], [3], [4, 0], [5, 6, 0]],
        "logps_M0": [-10.0, -11.0, -12.0, -13.0, -14.0],
        "logps_M1": [-1.0, -2.0, -3.0, -4.0, -5.0],
    }
)
PROMPT_IDS = {"p": (90,), "q": (91, 92)}
EXPECTED = [
    Example(
        "q-1>q-0",
        (91, 92),
        {"chosen": TokenSequence((5, 6, 0), -5.0), "rejected": TokenSequence((4, 0), -4.0)},
        {"consistency": 0.75},
        1.0,
    ),
    Example(
        "p-0>p-2",
        (90,),
        {"chosen": TokenSequence((1, 0), -1.0), "rejected": TokenSequence((3,), -3.0)},
        {"consistency": 0.5},
        0.25,
    ),
]


def test_pairs_get_their_ids_sums_consistency_and_weight():
    assert pair_examples(PAIRS, COMPLETIONS, PROMPT_IDS, reference_column="logps_M1") == EXPECTED


def test_the_order_and_the_parts_of_the_completions_do_not_matter():
    shuffled = COMPLETIONS.take(pa.array([4, 0, 3, 1, 2]))
    in_parts = pa.concat_tables([shuffled.slice(0, 2), shuffled.slice(2)])

    assert pair_examples(PAIRS, in_parts, PROMPT_IDS, reference_column="logps_M1") == EXPECTED


def test_the_reference_is_the_column_named():
    pairs = pair_examples(PAIRS, COMPLETIONS, PROMPT_IDS, reference_column="logps_M0")

    references = [[s.reference_logps for s in pair.sequences.values()] for pair in pairs]
    assert references == [[-14.0, -13.0], [-10.0, -12.0]]


def test_a_pair_whose_completion_or_prompt_is_gone_is_an_error():
    with pytest.raises(KeyError, match="q-1"):
        pair_examples(PAIRS, COMPLETIONS.slice(0, 4), PROMPT_IDS, reference_column="logps_M1")
    with pytest.raises(KeyError, match="p"):
        pair_examples(PAIRS, COMPLETIONS, {"q": (91,)}, reference_column="logps_M1")
    with pytest.raises(KeyError, match="logps_M7"):
        pair_examples(PAIRS, COMPLETIONS, PROMPT_IDS, reference_column="logps_M7")


def test_seed_examples_are_encoded_as_the_policy_would_have_sampled_them():
    messages = (Message("user", "hi"),)
    examples = [SeedExample(Prompt("p", messages), "yes"), SeedExample(Prompt("p", messages), "no")]
    encoded = seed_examples(
        examples,
        lambda m: tuple(map(ord, m[0].content)),
        lambda m, text: (*map(ord, text), len(m[0].content)),
    )

    assert encoded == [
        completion_example("p-0", (104, 105), (121, 101, 115, 2)),
        completion_example("p-1", (104, 105), (110, 111, 2)),
    ]
