"""The public fakes do what third parties will rely on."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from cream.algorithms.judging import parse_score
from cream.engines.sampler import TorchSampler
from cream.models.chat import ChatEncoder
from cream.models.loading import load_model, load_tokenizer
from cream.protocols import LogpScorer, Sampler, SamplingParams
from cream.testing import (
    CountingModel,
    ScriptedSampler,
    TableScorer,
    tiny_judge_folder,
    tiny_model,
    tiny_model_folder,
    tiny_tokenizer,
)
from cream.types import FinishReason, Message, SamplingRequest, ScoringRequest

PARAMS = SamplingParams(temperature=1.0, top_p=1.0, max_completion_tokens=4, stop_ids=(0, 9))


def test_the_tokenizer_keeps_every_text_and_has_the_traps_of_smollm2():
    tokenizer = tiny_tokenizer()
    text = "Héllo,  wörld\n\t✓ 7+8="
    ids = tokenizer(text)["input_ids"]

    assert tokenizer.decode(ids) == text
    assert len(ids) == len(text.encode())
    assert len(tokenizer) == 259
    assert tokenizer.pad_token_id == tokenizer.eos_token_id != tokenizer.bos_token_id


def test_the_chat_template_ends_turns_and_opens_the_assistants():
    tokenizer = tiny_tokenizer()
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True
    )

    assert rendered == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert tiny_tokenizer(chat_template=None).chat_template is None


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gemma", "gpt2"])
def test_tiny_models_depend_on_their_seed_alone_and_leave_the_global_one(architecture: str):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    ids = torch.tensor([[1, 50, 60, 70]])
    with torch.no_grad():
        first, again, other = (
            tiny_model(architecture=architecture, seed=seed)(ids).logits for seed in (0, 0, 1)
        )

    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)
    assert first.shape == (1, 4, 259)
    assert first.std() > 0.1  # predictions differ: nothing passes by being uniform


def test_a_tiny_folder_is_an_ordinary_model_folder(tmp_path: Path):
    folder = tiny_model_folder(tmp_path / "deep" / "model", seed=3)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = torch.tensor([[1, 50, 60]])

    with torch.no_grad():
        assert torch.equal(model(ids).logits, tiny_model(seed=3)(ids).logits)
    assert AutoTokenizer.from_pretrained(folder).eos_token == "<|im_end|>"


def test_a_counting_model_is_surprised_by_every_wrong_step():
    """Nearly log p = 0 for t + 1 after t, and -surprise for anything else; it wraps around."""
    model = CountingModel(vocab_size=10, surprise=20.0)
    ids = torch.tensor([[7, 8, 9, 0, 5]])
    logps = model(ids).logits.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None]).squeeze(1)

    torch.testing.assert_close(logps, torch.tensor([0.0, 0.0, 0.0, -20.0]), atol=1e-6, rtol=0)


def test_a_scripted_sampler_follows_its_script():
    sampler = ScriptedSampler({"p": [[1, 0], [2, 3], [4, 9]]})
    (group,) = sampler.sample([SamplingRequest("p", (5,), (11, 12))], PARAMS)

    assert isinstance(sampler, Sampler)
    assert [c.token_ids for c in group.completions] == [(1, 0), (2, 3)]
    assert [c.seed for c in group.completions] == [11, 12]
    assert [c.finish_reason for c in group.completions] == [
        FinishReason.STOP,
        FinishReason.LENGTH,
    ]


def test_a_script_that_is_too_short_or_lacks_a_prompt_is_an_error():
    sampler = ScriptedSampler({"p": [[1, 0]]})

    with pytest.raises(ValueError, match="zip"):
        list(sampler.sample([SamplingRequest("p", (5,), (1, 2))], PARAMS))
    with pytest.raises(KeyError, match="q"):
        list(sampler.sample([SamplingRequest("q", (5,), (1,))], PARAMS))


def test_a_table_scorer_looks_log_probabilities_up():
    scorer = TableScorer({("p", (1, 2)): [-1.0, -2.0], ("p", (3,)): [-0.5]})
    (group,) = scorer.score([ScoringRequest("p", (9,), ((3,), (1, 2)))])

    assert isinstance(scorer, LogpScorer)
    assert [row.tolist() for row in group.token_logps] == [[-0.5], [-1.0, -2.0]]
    assert {row.dtype for row in group.token_logps} == {np.dtype(np.float32)}
    with pytest.raises(KeyError):
        list(scorer.score([ScoringRequest("p", (9,), ((4,),))]))


def test_the_tiny_judge_gives_every_score_from_1_to_5_whatever_it_is_asked(tmp_path: Path):
    """60 draws of 5 equally likely scores: one is missing with probability < 5 * 0.8^60 < 1e-5."""
    model = load_model(tiny_judge_folder(tmp_path / "judge"), dtype=torch.float32)
    encoder = ChatEncoder(load_tokenizer(tmp_path / "judge"))
    params = SamplingParams(
        temperature=1.0, top_p=1.0, max_completion_tokens=12, stop_ids=encoder.stop_ids
    )
    requests = [
        SamplingRequest(
            text, encoder.encode_prompt([Message("user", text)]), tuple(range(i, i + 30))
        )
        for i, text in ((0, "Score: 9"), (30, "?"))
    ]

    groups = list(TorchSampler(model).sample(requests, params))

    texts = [encoder.decode(c.token_ids) for group in groups for c in group.completions]
    assert {parse_score(text) for text in texts} == {1.0, 2.0, 3.0, 4.0, 5.0}
    assert all(text == f"Score: {text[-1]}" for text in texts)
