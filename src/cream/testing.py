"""Public fakes and tiny real models, so that recipes and third parties can test without downloads.

Nothing here is a stand-in for a part of Cream: `tiny_model_folder` writes a real (random) Hugging
Face model with a real tokenizer, `CountingModel` is a causal language model whose log-probabilities
are known by hand, `tiny_judge_folder` a model that answers with a score, `ScriptedSampler` and
`TableScorer` implement the public protocols from a table.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cream.protocols import SamplingParams
from cream.types import (
    FinishReason,
    SampledGroup,
    SampledTokens,
    SamplingRequest,
    ScoredGroup,
    ScoringRequest,
)

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""ChatML without a default system prompt."""


def tiny_tokenizer(*, chat_template: str | None = CHAT_TEMPLATE) -> Any:
    """Build a byte-level tokenizer (no merges, 259 tokens) with pad = eos = ``<|im_end|>``.

    The same traps as SmolLM2-Instruct: bos is ``<|im_start|>`` and the pad token ends a turn.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate([*special, *alphabet])}
    core = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    core.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
    )
    tokenizer.chat_template = chat_template
    return tokenizer


def tiny_model(
    *, architecture: str = "llama", vocab_size: int = 259, seed: int = 0, head_dim: int = 16
) -> Any:
    """Build a random causal language model with about 0.1 M parameters, in float32.

    Args:
        architecture: ``llama``, ``qwen2``, ``gemma`` or ``gpt2`` (learned positions).
        vocab_size: Rows of the embedding.
        seed: Seed of the weights.
        head_dim: Width of an attention head, which ``gpt2`` does not take. vLLM asks for a multiple
            of 32 on a CPU.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    common = {
        "vocab_size": vocab_size,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
        "tie_word_embeddings": True,
    }
    if architecture == "gpt2":
        shape = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 512}
        dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        config = AutoConfig.for_model("gpt2", **common, **shape, **dropout)
    else:
        shape = {
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "head_dim": head_dim,
            "initializer_range": 0.2,
        }
        config = AutoConfig.for_model(architecture, **common, **shape)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return model.eval()


def tiny_model_folder(
    folder: Path,
    *,
    architecture: str = "llama",
    seed: int = 0,
    chat_template: str | None = CHAT_TEMPLATE,
    head_dim: int = 16,
) -> Path:
    """Write a tiny random model and its tokenizer as an ordinary Hugging Face folder."""
    folder.mkdir(parents=True, exist_ok=True)
    model = tiny_model(architecture=architecture, seed=seed, head_dim=head_dim)
    model.save_pretrained(folder)
    tiny_tokenizer(chat_template=chat_template).save_pretrained(folder)
    return folder


def tiny_reward_model_folder(
    folder: Path, *, architecture: str = "llama", outputs: int = 1, seed: int = 0
) -> Path:
    """Write a tiny random sequence classifier and its tokenizer as a Hugging Face folder.

    Args:
        folder: Where to.
        architecture: ``llama`` or ``gpt2`` (decoders), ``bert`` (an encoder).
        outputs: Width of the classification head; a reward model has 1.
        seed: Seed of the weights.
    """
    from transformers import AutoConfig, AutoModelForSequenceClassification

    shape = {
        "llama": {"num_key_value_heads": 2, "head_dim": 16},
        "gpt2": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
        "bert": {},
    }[architecture]
    config = AutoConfig.for_model(
        architecture,
        vocab_size=259,
        pad_token_id=2,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=512,
        initializer_range=0.2,
        num_labels=outputs,
        **shape,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    model.eval().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def tiny_judge_folder(folder: Path) -> Path:
    """Write a model that answers whatever it is asked with ``Score: N``, N uniform in 1 to 5.

    A Markov chain by hand: attention and MLP add nothing, the embedding tells the few tokens of the
    chain apart, and the head makes each one's successor certain. At temperature 1 the digits are
    drawn evenly, since each of them follows the blank with probability 1/5.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = tiny_tokenizer()
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    chain = [tokenizer(c, add_special_tokens=False)["input_ids"][0] for c in "\nScore: "]
    digits = [tokenizer(c, add_special_tokens=False)["input_ids"][0] for c in "12345"]
    follows = {a: [b] for a, b in pairwise(chain)}
    follows |= {chain[-1]: digits} | {digit: [end] for digit in digits}
    config = AutoConfig.for_model(
        "llama",
        vocab_size=259,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
        tie_word_embeddings=False,
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.model.norm.weight.fill_(1.0)
        for place, (token, successors) in enumerate(follows.items()):
            model.get_input_embeddings().weight[token, place] = 1.0
            model.get_output_embeddings().weight[successors, place] = 8.0
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_steered_folder(folder: Path, model: Path) -> Path:
    """Fit a steered reward on four invented users, two of either taste, and return its folder.

    Args:
        folder: Where to; it must not hold one.
        model: Folder of the model whose states it reads.
    """
    from cream.data.preferences import ContextSet, PreferenceRow, Preferences
    from cream.programs.steering import fit_reward, steering_config
    from cream.types import Message, Tally

    users = tuple(
        ContextSet(
            f"u{k}",
            tuple(
                PreferenceRow((Message("user", f"{n}?"),), "0", "1", "a" if k % 2 else "b", f"u{k}")
                for n in range(4)
            ),
        )
        for k in range(4)
    )
    pairs = Preferences("invented users", users, Tally(16, {"kept": 16}), {})
    small = ["steps=20", "latent=8", "components=8", "learning_rate=0.01"]
    config = steering_config({"model": {"name": str(model), "compute_dtype": "float32"}}, small)
    fit_reward(pairs, config, folder, cache_dir=folder, progress=_Unheard())
    return folder


class _Unheard:
    """A `Progress` that nobody hears."""

    def start(self, stage: str, total: int, unit: str, done: int = 0) -> None: ...
    def advance(self, count: int, live: Mapping[str, float] | None = None) -> None: ...
    def advance_to(
        self, done: int, total: int, live: Mapping[str, float] | None = None
    ) -> None: ...
    def finish(self, result: str = "") -> None: ...
    def note(self, text: str) -> None: ...


class CountingModel(nn.Module):
    """A causal language model that expects token (t + 1) mod V after token t.

    The expected token has logit 0, every other one ``-surprise``, so a completion that counts on
    from its prompt has token log-probabilities of about 0 and each wrong token costs about
    ``-surprise``. An off-by-one in shifting or masking shows as a wrong number of surprises.
    """

    anchor: Tensor

    def __init__(self, vocab_size: int = 50, surprise: float = 20.0) -> None:
        super().__init__()
        self.config = SimpleNamespace(vocab_size=vocab_size, model_type="counting")
        self.surprise = surprise
        self.register_buffer("anchor", torch.zeros(()))

    def forward(self, input_ids: Tensor, **_: Any) -> Any:
        """Return logits of shape ``(batch, token, vocab)``; other arguments are irrelevant."""
        expected = (input_ids + 1) % self.config.vocab_size
        one_hot = nn.functional.one_hot(expected, self.config.vocab_size).float()
        return SimpleNamespace(logits=(one_hot - 1) * self.surprise + self.anchor)


class ScriptedSampler:
    """A `Sampler` that returns completions from a table: prompt id -> token ids per completion."""

    def __init__(self, script: Mapping[str, Sequence[Sequence[int]]]) -> None:
        self.script = script

    def sample(
        self, requests: Iterable[SamplingRequest], params: SamplingParams
    ) -> Iterator[SampledGroup]:
        """Yield the scripted completions; completion i takes seed i."""
        for request in requests:
            rows = self.script[request.prompt_id][: len(request.seeds)]
            yield SampledGroup(
                request.prompt_id,
                tuple(
                    SampledTokens(
                        tuple(ids),
                        FinishReason.STOP
                        if ids and ids[-1] in params.stop_ids
                        else FinishReason.LENGTH,
                        seed,
                        0.0,
                    )
                    for ids, seed in zip(rows, request.seeds, strict=True)
                ),
            )


class TableScorer:
    """A `LogpScorer` that looks token log-probabilities up: (prompt id, ids) -> one per token."""

    def __init__(self, table: Mapping[tuple[str, tuple[int, ...]], Sequence[float]]) -> None:
        self.table = table

    def score(self, requests: Iterable[ScoringRequest]) -> Iterator[ScoredGroup]:
        """Yield the tabled values."""
        for request in requests:
            yield ScoredGroup(
                request.prompt_id,
                tuple(
                    np.asarray(self.table[request.prompt_id, ids], dtype=np.float32)
                    for ids in request.completions
                ),
            )
