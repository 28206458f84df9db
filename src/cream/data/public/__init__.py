"""The public datasets of the CREAM paper, turned into files that a recipe reads.

`prepare_dataset` reads one of them from the hub or from local files of the same schema and writes
JSONL in the shape that a ``file`` source takes, with a manifest of what was kept and dropped.
Nothing here trains or evaluates.

The paper (arXiv 2410.12735) names the datasets; which rows were kept and how a question is written
out with its options is not stated, and the authors' prepared files are not in their repository.
What is ours is said where it is decided.
"""

from cream.data.public.catalogue import DATASETS, PublicDataset, dataset_named
from cream.data.public.prepare import prepare_dataset

__all__ = ["DATASETS", "PublicDataset", "dataset_named", "prepare_dataset"]
