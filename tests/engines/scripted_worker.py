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


def say(text):
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def drip():
    while True:
        sys.stdout.write(" ")
        sys.stdout.flush()
        time.sleep(0.05)


NO_ANSWERS = {
    17.0: lambda: say("INFO 11-26 loading weights"),
    18.0: lambda: say("[1, 2]"),
    19.0: lambda: say("[" * 100_000),
    20.0: lambda: say('{"group": {"index": 77, "completions": []}}'),
    21.0: lambda: say('{"group": 5}'),
    22.0: lambda: say('{"group": {"index": 0, "completions": [{"ids": [-1], "reason": "stop"}]}}'),
    23.0: lambda: say('{"error": "no such thing"}'),
    24.0: lambda: say('{"done": 1}'),
    25.0: lambda: say('{"group": {"index": 0, "completions": [{"ids": [3], "reason": "length", '
                      '"logp": NaN}, {}, {}]}}'),
    26.0: lambda: sys.stdout.buffer.write(b"\xff\xfe\n"),
    27.0: drip,
}  # fmt: skip


def sample(question):
    settings = question["settings"]
    if settings["temperature"] in NO_ANSWERS:
        NO_ANSWERS[settings["temperature"]]()
        sys.stdout.flush()
        return
    if settings["temperature"] == 16.0:
        settings["stop_token_ids"] = [99]
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
    answer(done=1)


for line in sys.stdin:
    question = json.loads(line)
    if "load" in question:
        print("loading", question["load"]["model"], "pid", os.getpid(), file=sys.stderr, flush=True)
        answer(ready={"version": "0.0", "device": "cpu", "context": 64})
    else:
        sample(question["sample"])
