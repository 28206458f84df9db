import copy

import pytest
import torch

from cream.errors import DataError, Interrupted, ModelError
from cream.models.artifacts import CONFIG, WEIGHTS
from cream.models.reranker import Heads, load_reranker, save_reranker
from cream.models.window_text import WindowEncoder
from cream.models.windows import lay_out_windows, window_states
from cream.recipe.reranking import RerankerConfig, WindowConfig
from cream.runs.files import read_sealed, write_sealed
from cream.testing import CHAT_TEMPLATE, tiny_model, tiny_tokenizer
from cream.training.reranking import GradedGroup, _Work, fit_heads

ENCODER = WindowEncoder(
    tiny_tokenizer(), CHAT_TEMPLATE, WindowConfig(max_candidate_tokens=12), trained=True
)


def config(**training):
    return RerankerConfig.model_validate(
        {
            "windows": {"size": 3, "max_candidate_tokens": 12, "scale": "none"},
            "training": {"epochs": 2, "optimiser": {"batch_size": 2}, **training},
        }
    )


def group(k, size=6):
    """Candidates whose label is the number of a's."""
    texts = ["b" * (5 - j) + "a" * j for j in range(size)]
    ids = tuple(ENCODER.candidate(t)[0] for t in texts)
    return GradedGroup(f"g{k}", ENCODER.query(f"q{k}"), ids, tuple(map(float, range(size))))


GROUPS = [group(k) for k in range(4)]


def fitted(model=None, groups=GROUPS, given=None, **rest):
    return fit_heads(model or tiny_model(), groups, ENCODER, given or config(), **rest)


def flat(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def test_heads_learn_and_a_frozen_model_does_not_move():
    model = tiny_model()
    before = copy.deepcopy(model.state_dict())
    heads, done = fitted(model, given=config(epochs=15, head_learning_rate=0.05))

    assert done.metrics[-1]["loss/point"] < 0.3 < done.metrics[0]["loss/point"]
    assert done.metrics[0]["loss/list"] == pytest.approx(0.693147, abs=1e-5), "heads begin at zero"
    assert done.metrics[0]["calibration_weight"] == 0, "equal losses are not better"
    assert done.metrics[-1]["calibration_weight"] == 1
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())
    assert heads.list.weight.abs().sum() > 0


@pytest.mark.parametrize("grades", [(0.0, 1.0), (1.0, 0.0)])
def test_a_step_raises_both_views_of_what_is_labelled_best(grades):
    model = tiny_model()
    one = GradedGroup("g", GROUPS[0].query, GROUPS[0].candidates[:2], grades)
    given = config(epochs=1, optimiser={"warmup_ratio": 0.0})
    heads, _ = fitted(model, [one], given)
    ((window, members),) = _Work(model, [one], ENCODER, given).windows(0, 0)
    with torch.no_grad():
        views = heads(*window_states(model, lay_out_windows([window], torch.device("cpu"))))

    best = members.index(grades.index(1.0))
    for scores in views:
        assert scores[best] > scores[1 - best]


def test_micro_batches_change_memory_and_nothing_else():
    one, _ = fitted()
    other, _ = fitted(given=config(compute={"micro_batch_tokens": 1}))

    assert torch.allclose(flat(one), flat(other), atol=1e-5)


def test_windows_and_identifiers_change_from_epoch_to_epoch():
    work = _Work(tiny_model(), GROUPS, ENCODER, config())
    members = [[m for _, m in work.windows(0, epoch)] for epoch in range(3)]
    ids = [work.windows(0, 0)[0][0].readouts, work.windows(0, 1)[0][0].readouts]

    assert len({str(m) for m in members}) > 1
    assert ids[0] != ids[1]
    assert all(sorted(k for w in m for k in w) == list(range(6)) for m in members)


def test_an_interrupted_training_goes_on_to_the_same_heads(tmp_path):
    whole, _ = fitted()

    def stop(step, total, values):
        if step == 2:
            raise Interrupted

    with pytest.raises(Interrupted):
        fitted(state_dir=tmp_path, on_step=stop)
    resumed, done = fitted(state_dir=tmp_path)

    assert torch.equal(flat(whole), flat(resumed))
    assert len(done.metrics) == 4


def test_adapters_train_the_model_and_leave_an_ordinary_one():
    model = tiny_model()
    before = copy.deepcopy(model.state_dict())
    lora = {"rank": 2, "alpha": 4, "dropout": 0.0}
    fitted(model, given=config(lora=lora, optimiser={"learning_rate": 1e-2, "batch_size": 2}))

    after = model.state_dict()
    assert after.keys() == before.keys()
    moved = [k for k, v in after.items() if not torch.equal(v, before[k])]
    assert moved
    assert all(".layers." in k for k in moved)


def test_nothing_to_train_on_and_a_query_without_room_are_refused():
    with pytest.raises(DataError, match="unequal labels"):
        fitted(groups=[])
    long = GradedGroup("long", ENCODER.query("x" * 600), GROUPS[0].candidates, GROUPS[0].grades)
    with pytest.raises(DataError, match=r"'long'.*512"):
        fitted(groups=[long])


def artifact(folder):
    heads = Heads(8)
    with torch.no_grad():
        for k, parameter in enumerate(heads.parameters()):
            parameter.fill_(float(k))
    save_reranker(folder, heads, config(), fingerprint="f", what={"groups": 3})
    return heads


def test_a_reranker_is_read_as_it_was_written(tmp_path):
    heads = artifact(tmp_path)
    found = load_reranker(tmp_path)

    assert torch.equal(flat(found.heads), flat(heads))
    assert found.config == config()
    assert (found.fingerprint, found.model_folder) == ("f", None)


def test_a_reranker_that_is_not_whole_is_refused(tmp_path):
    """What a file of tensors may not be is tried with `cream.models.artifacts`."""
    with pytest.raises(ModelError, match="no reranker"):
        load_reranker(tmp_path)
    artifact(tmp_path)
    record = read_sealed(tmp_path / CONFIG)
    write_sealed(tmp_path / CONFIG, {**record, "hidden_size": 7})
    with pytest.raises(ModelError, match=r"does not belong.*list.weight is \(1, 8\)"):
        load_reranker(tmp_path)
    write_sealed(tmp_path / CONFIG, record)
    (tmp_path / WEIGHTS).write_bytes(b"no tensors")
    with pytest.raises(ModelError, match="not what was saved"):
        load_reranker(tmp_path)


def test_a_reranker_of_another_format_is_refused(tmp_path):
    artifact(tmp_path)
    record = read_sealed(tmp_path / CONFIG)
    write_sealed(tmp_path / CONFIG, {**record, "format": 2})
    with pytest.raises(ModelError, match="format 2"):
        load_reranker(tmp_path)
