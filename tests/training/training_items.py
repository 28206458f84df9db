"""Items to train on, for the tests of this room."""

import torch

from cream.algorithms.objective import Needs
from cream.training.examples import BatchLayout, completion_example, pair_example
from cream.types import TokenSequence

PAIR_NEEDS = Needs(("chosen", "rejected"))


def pair_batch(pairs, *, shared):
    return BatchLayout(PAIR_NEEDS, shared).batch(pairs)


def random_ids(generator, count):
    return tuple(torch.randint(3, 259, (count,), generator=generator).tolist())


def make_pairs(count, *, seed=0, consistency=1.0, reference=-20.0):
    """Random pairs of unequal lengths, all ending with id 2, which is also the pad id."""
    g = torch.Generator().manual_seed(seed)
    return [
        pair_example(
            f"pair-{i}",
            random_ids(g, 3 + i % 4),
            TokenSequence((*random_ids(g, 2 + i % 5), 2), reference - i),
            TokenSequence((*random_ids(g, 5 - i % 3), 2), reference),
            consistency=consistency,
        )
        for i in range(count)
    ]


def make_examples(count, *, seed=0):
    g = torch.Generator().manual_seed(seed)
    return [
        completion_example(f"ex-{i}", random_ids(g, 3 + i % 4), (*random_ids(g, 2 + i % 5), 2))
        for i in range(count)
    ]
