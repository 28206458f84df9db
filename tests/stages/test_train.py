"""What the trainer gets is joined by id: sampled ids, never text tokenised again."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from cream.algorithms.preference import supervised
from cream.errors import DataError
from cream.stages.train import imitated, pair_examples, seed_examples
from cream.testing import tiny_model
from cream.training.examples import BatchLayout, completion_example
from cream.training.forward import choose_route
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


class Letters:
    """A token per character, or per so many; the end is 2."""

    def __init__(self, width=1, *, trims=False):
        self.width, self.trims, self.known = width, trims, {2: ""}

    def encode_prompt(self, messages):
        return tuple(map(ord, messages[0].content))

    def encode_completion(self, messages, text):
        text = text.strip() if self.trims else text
        pieces = [text[i : i + self.width] for i in range(0, len(text), self.width)]
        ids = [int.from_bytes(piece.encode(), "big") for piece in pieces]
        self.known |= dict(zip(ids, pieces, strict=True))
        return (*ids, 2)

    def decode(self, ids):
        return "".join(self.known[i] for i in ids)


class Rewriting(Letters):
    """Comes out otherwise than it went in."""

    def decode(self, ids):
        return "other"


def masked(text, *spans, encoder):
    example = SeedExample(Prompt("p", (Message("user", "hi"),)), text, spans)
    found = imitated(example, encoder).loss_mask
    assert found is not None
    return "".join(".x"[used] for used in found)


def test_masked_spans_of_a_seed_completion_are_masked_tokens():
    """abcdef with cd masked; with two characters a token the one of both spans goes to the later;
    a last span takes the end token along."""
    assert masked("abcdef", (2, 4), encoder=Letters()) == "xx..xxx"
    assert masked("abcdef", (0, 1), (4, 6), encoder=Letters()) == ".xxx..."
    assert masked("abcdef", (2, 4), encoder=Letters(2)) == "x.xx"
    assert masked("abcdef", (1, 4), encoder=Letters(2)) == "..xx"
    assert masked("abcdef", (0, 3), encoder=Letters(2)) == ".xxx"


def test_spans_are_found_where_a_template_trims_and_refused_where_it_rewrites():
    assert masked("  abcd ", (0, 4), encoder=Letters(trims=True)) == "..xxx"
    with pytest.raises(DataError, match="changes the seed completion 'abcd' to 'other'"):
        masked("abcd", (0, 2), encoder=Rewriting())


def test_the_loss_of_fine_tuning_is_over_the_unmasked_tokens():
    """Four tokens, the middle two masked: -(log p_1 + log p_4), which training divides by 2."""
    model = tiny_model(seed=0)
    sequence = TokenSequence((5, 6, 7, 2), loss_mask=(True, False, False, True))
    layout = BatchLayout(supervised().needs, shared=False)
    batch = layout.batch([Example("e", (3, 4), {"completion": sequence})])
    computed = choose_route(model).forward(model, batch.tokens)
    inputs = batch.inputs(computed.token_logps)
    logits = model(torch.tensor([[3, 4, 5, 6, 7, 2]])).logits[0, 1:5].log_softmax(-1)
    wanted = -(logits[0, 5] + logits[3, 2])
    torch.testing.assert_close(supervised().loss(inputs).sum(), wanted, rtol=1e-4, atol=1e-4)
    assert layout.loss_tokens(batch.examples[0]) == 2


def test_seed_examples_are_encoded_as_the_policy_would_have_sampled_them():
    messages = (Message("user", "hi"),)
    examples = [SeedExample(Prompt("p", messages), "yes"), SeedExample(Prompt("p", messages), "no")]
    encoded = seed_examples(examples, Letters())

    assert encoded == [
        completion_example("p-0", (104, 105), (121, 101, 115, 2)),
        completion_example("p-1", (104, 105), (110, 111, 2)),
    ]
