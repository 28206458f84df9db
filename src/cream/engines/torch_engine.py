"""The torch engine: sampler and scorer on a Hugging Face model, on CPU or one GPU.

Runs every causal language model: packed and cached by our own attention where the architecture
allows it (`cream.engines.backbone`), by the model's own forward elsewhere (`cream.engines.plain`).
"""

from cream.engines.sampler import TorchSampler
from cream.engines.scorer import TorchScorer

__all__ = ["TorchSampler", "TorchScorer"]
