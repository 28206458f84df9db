"""A model from scratch: an ordinary folder, the same again, and refusals that name the key."""

import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForCausalLM, AutoTokenizer

from cream.errors import ModelError
from cream.models.chat import ChatEncoder
from cream.models.folders import resolve_model
from cream.recipe.model import ModelConfig
from cream.testing import tiny_tokenizer
from cream.types import Message

SHAPE = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
NO_POSITIONS = {"rope_parameters": {"rope_type": "linear", "factor": 1e9, "rope_theta": 1e4}}


def described(**changes):
    values = {"model_type": "llama", "alphabet": "abc", "config": SHAPE, **changes}
    return ModelConfig.model_validate({"from_scratch": values})


def test_it_is_an_ordinary_folder_made_once(tmp_path):
    folder = resolve_model(described(), tmp_path)
    written = (folder / "model.safetensors").stat().st_mtime_ns
    model = AutoModelForCausalLM.from_pretrained(folder)

    # pad, end, unknown, three letters and the separator
    assert model.get_input_embeddings().weight.shape == (7, 16)
    assert AutoTokenizer.from_pretrained(folder).eos_token_id == model.config.eos_token_id == 1
    assert resolve_model(described(), tmp_path) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == written


def test_weights_follow_from_the_seed(tmp_path):
    def weights(cache, **changes):
        folder = resolve_model(described(**changes), tmp_path / cache)
        return AutoModelForCausalLM.from_pretrained(folder).get_input_embeddings().weight

    assert torch.equal(weights("one"), weights("two"))  # pyright: ignore
    assert not torch.equal(weights("one"), weights("one", seed=1))  # pyright: ignore


def test_characters_are_tokens_and_an_answer_ends(tmp_path):
    encoder = ChatEncoder(AutoTokenizer.from_pretrained(resolve_model(described(), tmp_path)))
    prompt = [Message("user", "abca")]

    assert encoder.encode_prompt(prompt) == (3, 4, 5, 3, 6)
    answer = encoder.encode_completion(prompt, "cb")
    assert answer == (5, 4, 1)
    assert encoder.decode(answer) == "cb"


def test_a_character_outside_the_alphabet_is_refused(tmp_path):
    encoder = ChatEncoder(AutoTokenizer.from_pretrained(resolve_model(described(), tmp_path)))

    with pytest.raises(ModelError, match="no token for 'x', ' ' in 'ax b"):
        encoder.encode_prompt([Message("user", "ax b x")])
    with pytest.raises(ModelError, match="no token for 'd'"):
        encoder.encode_completion([Message("user", "a")], "d")


def test_linear_positions_of_a_huge_factor_are_none(tmp_path):
    """Angles are at most 64 / 1e9: letters in another order give the same last logits but for the
    mask, so a prompt of equal letters predicts alike wherever it stands."""
    folder = resolve_model(described(config={**SHAPE, **NO_POSITIONS}), tmp_path)
    model = AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.tensor([[3, 4, 5, 3]])

    with torch.no_grad():
        near = model(ids, position_ids=torch.arange(4)[None]).logits
        far = model(ids, position_ids=torch.tensor([[0, 20, 40, 60]])).logits
    assert torch.allclose(near, far, atol=1e-5)


def test_a_given_tokenizer_is_taken(tmp_path):
    tiny_tokenizer().save_pretrained(tmp_path / "given")
    config = described(alphabet=None, tokenizer=str(tmp_path / "given"))

    folder = resolve_model(config, tmp_path)

    assert len(AutoTokenizer.from_pretrained(folder)) == 259
    shape = AutoModelForCausalLM.from_pretrained(folder).get_input_embeddings().weight.shape
    assert shape == (259, 16)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"alphabet": None}, "one tokenizer"),
        ({"tokenizer": "./x"}, "one tokenizer"),
        ({"alphabet": "aba"}, "a character twice"),
        ({"config": {**SHAPE, "vocab_size": 9}}, "`config.vocab_size` is decided"),
    ],
)
def test_a_description_that_contradicts_itself_is_refused(changes, complaint):
    with pytest.raises(ValidationError, match=complaint):
        described(**changes)


def test_a_model_is_named_or_described():
    with pytest.raises(ValidationError, match="both say what M0 is"):
        ModelConfig.model_validate(
            {"name": "org/model", "from_scratch": {"model_type": "llama", "alphabet": "a"}}
        )
    config = described()
    assert config.name == "from_scratch"
    assert ModelConfig.model_validate(config.model_dump()) == config  # as a run stores it


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"model_type": "lama"}, "cannot make a lama"),
        ({"config": {**SHAPE, "hidden_sise": 3}}, "no option hidden_sise"),
        ({"config": {**SHAPE, "num_attention_heads": 3}}, "cannot make a llama"),
        ({"alphabet": None, "tokenizer": "./nothing"}, "'./nothing' has no tokenizer"),
    ],
)
def test_what_transformers_cannot_make_is_refused_with_its_reason(changes, complaint, tmp_path):
    with pytest.raises(ModelError, match=complaint):
        resolve_model(described(**changes), tmp_path)
