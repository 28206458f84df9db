"""A peer for tests of the pipe: speaks the worker's protocol, with made-up completions.

No stand-in for vLLM: what vLLM does is tested with vLLM (`test_vllm.py`). The temperature of a
question says what goes wrong. Completion i of a prompt repeats the prompt's first token, its seed
modulo 100 times at most, then the first stop id if there is room.
"""

import json
import os
import signal
import sys
import time


def answer(**fields):
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


def completion(prompt, seed, settings):
    length, limit = seed % 100, settings["max_tokens"]
    ids = [prompt[0]] * min(length, limit)
    if length < limit:
        ids.append(settings["stop_token_ids"][0])
    reason = "stop" if length < limit else "length"
    return {"ids": ids, "reason": reason, "logp": -float(len(ids)), "cached": 0}


def sample(question):
    settings = question["settings"]
    for request in reversed(question["requests"]):
        completions = [completion(request["prompt"], s, settings) for s in request["seeds"]]
        answer(alive=1)
        answer(group={"index": request["index"], "completions": completions})
    match settings["temperature"]:
        case 11.0:
            answer(error={"message": "ValueError: no such thing", "out_of_memory": False})
            os._exit(1)
        case 12.0:
            answer(error={"message": "OutOfMemoryError: 80 GiB", "out_of_memory": True})
            os._exit(1)
        case 13.0:
            os.kill(os.getpid(), signal.SIGKILL)
        case 14.0:
            raise RuntimeError("told to the log only")
        case 15.0:
            time.sleep(60)
        case 16.0:
            settings["stop_token_ids"] = [99]
            made = [completion([5], 1, settings)]
            answer(group={"index": 0, "completions": made * len(question["requests"][0]["seeds"])})
    answer(done=1)


for line in sys.stdin:
    question = json.loads(line)
    if "load" in question:
        print("loading", question["load"]["model"], "pid", os.getpid(), file=sys.stderr, flush=True)
        answer(ready={"version": "0.0", "device": "cpu", "context": 64})
    else:
        sample(question["sample"])
