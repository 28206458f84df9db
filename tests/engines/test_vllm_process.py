"""The pipe to vLLM's process, its errors and its end, with a peer that needs no vLLM."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cream.engines.vllm_sampler import VllmSampler
from cream.errors import EngineError, ModelError, RecipeError
from cream.protocols import Sampler, SamplingParams
from cream.recipe.engine import VllmEngine
from cream.types import FinishReason, SamplingRequest

PEER = Path(__file__).with_name("scripted_worker.py")
PARAMS = SamplingParams(1.0, 0.9, 10, (7, 20))
REQUESTS = [SamplingRequest(f"p{i}", (i + 30, 3), (4, 14, 2)) for i in range(3)]


@pytest.fixture
def make(tmp_path):
    samplers = []

    def build(*, device="cpu", **settings):
        sampler = VllmSampler(
            tmp_path,
            VllmEngine(**settings),
            device=torch.device(device),
            dtype=torch.float32,
            script=PEER,
        )
        samplers.append(sampler)
        return sampler

    yield build
    for sampler in samplers:
        sampler.close()


def process_of(sampler):
    return sampler._process._process.pid


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_groups_are_joined_by_id_and_completions_by_seed(make):
    """The peer answers last prompt first."""
    groups = list(make().sample(REQUESTS, PARAMS))

    assert [g.prompt_id for g in groups] == ["p2", "p1", "p0"]
    for group in groups:
        token = int(group.prompt_id[1]) + 30
        assert [c.seed for c in group.completions] == [4, 14, 2]
        assert [c.token_ids for c in group.completions] == [
            (token,) * 4 + (7,),
            (token,) * 10,
            (token,) * 2 + (7,),
        ]
        reasons = [c.finish_reason for c in group.completions]
        assert reasons == [FinishReason.STOP, FinishReason.LENGTH, FinishReason.STOP]
        assert [c.sampling_logp for c in group.completions] == [-5.0, -10.0, -3.0]


def test_greedy_is_certain(make):
    (group,) = make().sample(REQUESTS[:1], replace(PARAMS, temperature=0.0))

    assert [c.sampling_logp for c in group.completions] == [0.0, 0.0, 0.0]


def test_one_process_answers_question_after_question(make):
    sampler = make()
    first = list(sampler.sample(REQUESTS, PARAMS))
    pid = process_of(sampler)

    assert list(sampler.sample(REQUESTS, PARAMS)) == first
    assert process_of(sampler) == pid


def test_a_request_without_seeds_is_answered_with_no_completion(make):
    requests = [replace(REQUESTS[0], seeds=()), REQUESTS[1]]
    groups = {g.prompt_id: g for g in make().sample(requests, PARAMS)}

    assert groups["p0"].completions == ()
    assert len(groups["p1"].completions) == 3


def test_close_ends_the_process_and_the_next_question_starts_another(make):
    sampler = make()
    list(sampler.sample(REQUESTS, PARAMS))
    pid = process_of(sampler)
    sampler.close()

    assert not is_running(pid)
    assert len(list(sampler.sample(REQUESTS, PARAMS))) == 3


def test_an_iteration_left_early_ends_the_process(make):
    """Or its other answers would be taken for those of the next question."""
    sampler = make()
    groups = sampler.sample(REQUESTS, PARAMS)
    next(groups)
    pid = process_of(sampler)
    groups.close()

    assert not is_running(pid)
    again = sampler.sample(REQUESTS[1:2], PARAMS)
    assert [g.prompt_id for g in again] == ["p1"]


def test_an_interruption_ends_the_process(make):
    """What the handler of Ctrl-C raises comes out of the wait for an answer."""

    class Stop(BaseException):
        pass

    def handle(number, frame):
        raise Stop

    before = signal.signal(signal.SIGALRM, handle)
    sampler = make()
    list(sampler.sample(REQUESTS, PARAMS))
    pid = process_of(sampler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(Stop):
            list(sampler.sample(REQUESTS, replace(PARAMS, temperature=15.0)))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

    assert not is_running(pid)


@pytest.mark.parametrize(
    ("temperature", "message"),
    [
        (11.0, r"vLLM failed: ValueError: no such thing\. Mend what it names"),
        (12.0, r"OutOfMemoryError: 80 GiB\. Lower engine\.memory_share"),
        (13.0, r"was killed, .* memory\. Lower engine\.memory_share"),
        (14.0, r"(?s)ended with exit code 1\. .*RuntimeError: told to the log only"),
        (16.0, r"ended a completion by stop after 5 tokens"),
    ],
)
def test_a_failure_is_one_error_with_the_end_of_the_log(make, temperature, message):
    sampler = make()
    list(sampler.sample(REQUESTS, PARAMS))
    pid = process_of(sampler)

    with pytest.raises(EngineError, match=message) as caught:
        list(sampler.sample(REQUESTS, replace(PARAMS, temperature=temperature)))

    assert "set engine: torch" in str(caught.value) or "Set engine: torch" in str(caught.value)
    if temperature != 16.0:
        assert f"Its log ends:\n  loading {sampler._base} pid {pid}" in str(caught.value)
    assert not is_running(pid)


@pytest.mark.parametrize("temperature", [15.0, 27.0], ids=["silent", "drips bytes"])
def test_silence_ends_in_an_error(make, temperature):
    sampler = make(timeout_seconds=1.0)
    list(sampler.sample(REQUESTS, PARAMS))
    pid = process_of(sampler)

    with pytest.raises(EngineError, match=r"no sign of life for 1 s and was ended"):
        list(sampler.sample(REQUESTS, replace(PARAMS, temperature=temperature)))

    assert not is_running(pid)


@pytest.mark.parametrize(
    ("temperature", "said"),
    [
        (17.0, "b'INFO 11-26 loading weights'"),
        (18.0, r"\[1, 2\]"),
        (19.0, r"b'\[\[\["),
        (20.0, "'index': 77"),
        (21.0, "{'group': 5}"),
        (22.0, r"'ids': \[-1\]"),
        (23.0, "{'error': 'no such thing'}"),
        (24.0, r"that it is done, without 3 prompts \(p0"),
        (25.0, "'logp': nan"),
        (26.0, "xff"),
    ],
)
def test_what_is_no_answer_is_one_error(make, temperature, said):
    sampler = make()
    list(sampler.sample(REQUESTS, PARAMS))
    pid = process_of(sampler)

    with pytest.raises(EngineError, match=rf"said .*{said}.*no answer.* set engine: torch"):
        list(sampler.sample(REQUESTS, replace(PARAMS, temperature=temperature)))

    assert not is_running(pid)
    assert len(list(sampler.sample(REQUESTS, PARAMS))) == 3


def test_vllm_for_another_device_is_refused(make):
    sampler = make(device="cuda:0")

    with pytest.raises(ModelError, match=r"runs on cpu, the model is to run on cuda"):
        next(sampler.sample(REQUESTS, PARAMS))


def test_a_prompt_without_room_is_refused_before_anything_is_sampled(make):
    requests = [*REQUESTS, SamplingRequest("long", (3,) * 60, (1,))]

    with pytest.raises(ModelError, match=r"prompt long: .* 70 tokens, vLLM has room for 64"):
        next(make().sample(requests, PARAMS))


def test_a_temperature_that_vllm_would_change_is_refused(make):
    with pytest.raises(RecipeError, match=r"0\.005 would be raised to 0\.01"):
        next(make().sample(REQUESTS, replace(PARAMS, temperature=0.005)))


@pytest.mark.parametrize(
    "change",
    [{"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.1}, {"max_completion_tokens": 0}],
)
def test_parameters_out_of_range_are_refused(make, change):
    with pytest.raises(ValueError, match="must be"):
        next(make().sample(REQUESTS, replace(PARAMS, **change)))


def test_a_python_that_is_not_there_is_one_error(make, tmp_path):
    with pytest.raises(EngineError, match="could not be started"):
        next(make(python=str(tmp_path / "nowhere")).sample(REQUESTS, PARAMS))


def test_the_process_does_not_outlive_a_killed_parent(tmp_path):
    """Its input ends, whoever held the other end."""
    code = (
        "import sys, torch, os, signal\n"
        "from pathlib import Path\n"
        "from cream.engines.vllm_sampler import VllmSampler\n"
        "from cream.recipe.engine import VllmEngine\n"
        "from cream.protocols import SamplingParams\n"
        "from cream.types import SamplingRequest\n"
        "sampler = VllmSampler(Path(sys.argv[2]), VllmEngine(), device=torch.device('cpu'),\n"
        "    dtype=torch.float32, script=Path(sys.argv[1]))\n"
        "params = SamplingParams(1.0, 1.0, 2, (7,))\n"
        "list(sampler.sample([SamplingRequest('p', (3,), (1,))], params))\n"
        "print(sampler._process._process.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    command = [sys.executable, "-c", code, str(PEER), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == -signal.SIGKILL, done.stderr
    pid, deadline = int(done.stdout), time.monotonic() + 10
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(pid)


def test_sampler_implements_the_protocol(make):
    assert isinstance(make(), Sampler)
