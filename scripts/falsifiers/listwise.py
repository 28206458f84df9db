"""Listwise reranking on human labels: does calibration make windows comparable?

The Lee corpus (50 news texts) with human similarities of every pair comes inside the wheel of
gensim, which is fetched by pip and not shipped. A query is a text, its candidates are the 49
others in windows of 7, drawn at random or cut from the order of a first stage (cosine). States of
the frozen embedded model are the features; the list head is one layer of attention in a window,
the point head a small network. The losses are those of `cream.algorithms.listwise`.

A calibration within each window is the wrong implementation: it cannot see what is added to a
whole window.
"""

from __future__ import annotations

import io

import numpy as np
import torch
from falsifiers.wheels import fetched
from falsify import Arm, Claim, Falsified
from torch import Tensor, nn

from cream.algorithms.listwise import (
    ViewOptions,
    partition,
    pooled_kl,
    score_variance,
    views_loss,
)
from cream.algorithms.retrieval import ordered_pairs
from cream.algorithms.statistics import Interval, bootstrap_mean
from cream.cache import cache_dir
from cream.models.embedded import embedded_model
from cream.models.loading import load_model, load_tokenizer

TOKENS, COMPONENTS, WINDOW = 64, 24, 7
STEPS, WINDOWS_PER_STEP, HELD_OUT = 90, 4, 17
ARMS = ("list only", "per-window KL (wrong)", "pooled KL", "variance", "pooled KL, always")
CUTS = ("random", "first stage")


def lee() -> tuple[list[str], np.ndarray]:
    """The texts and their mean human similarities, symmetric, 0 on the diagonal."""
    members = [f"gensim/test/test_data/{n}" for n in ("lee.cor", "similarities0-1.txt")]
    said, told = fetched("gensim", members, encoding="latin-1")
    upper = np.triu(np.loadtxt(io.StringIO(told)), 1)
    return said.splitlines(), upper + upper.T


@torch.no_grad()
def features(texts: list[str]) -> tuple[Tensor, np.ndarray]:
    """Of every pair (query, candidate) its features, and the cosine that the first stage ranks by.

    Products of principal components of both texts, and the cosine, each standardised.
    """
    folder = embedded_model(cache_dir())
    tokenizer, model = load_tokenizer(folder), load_model(folder)
    states = []
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"][:TOKENS]
        states.append(model.base_model(torch.tensor([ids])).last_hidden_state[0].mean(0))
    centred = torch.stack(states).double()
    centred -= centred.mean(0)
    unit = centred / centred.norm(dim=1, keepdim=True)
    cosine = unit @ unit.T
    left, size, _ = torch.linalg.svd(centred, full_matrices=False)
    components = (left * size)[:, :COMPONENTS]
    components /= components.std(0)
    products = components[:, None] * components[None]
    whole = torch.cat([products, cosine[..., None] / cosine.std()], -1)
    return whole.float(), cosine.numpy()


class ListHead(nn.Module):
    """Attention among the members of a window, on what they are beside it and on its mean."""

    def __init__(self, width: int, inner: int = 32) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(2 * width, inner), nn.Tanh())
        self.query, self.key, self.value = (nn.Linear(inner, inner) for _ in range(3))
        self.out = nn.Linear(inner, 1)

    def forward(self, members: Tensor) -> Tensor:
        """``(window, member, feature)`` to ``(window, member)``."""
        mean = members.mean(1, keepdim=True)
        x = self.embed(torch.cat([members - mean, mean.expand_as(members)], -1))
        scores = self.query(x) @ self.key(x).mT / x.shape[-1] ** 0.5
        return self.out(x + scores.softmax(-1) @ self.value(x))[..., 0]


def cut(query: int, how: str, cosine: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Windows of the candidates of a query."""
    others = np.array([k for k in range(len(cosine)) if k != query])
    order = draw.permutation(others)
    if how == "first stage":
        order = others[np.argsort(-cosine[query, others], kind="stable")]
    return np.array(partition(order.tolist(), WINDOW))


def trained(
    arm: str, how: str, x: Tensor, cosine: np.ndarray, human: np.ndarray, seed: int
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Shares of pairs in the right order, within and across windows, by view and held-out query."""
    torch.manual_seed(seed)
    draw = np.random.default_rng(seed)
    order = draw.permutation(len(human))
    held_out, learnt = order[:HELD_OUT], order[HELD_OUT:]
    point = nn.Sequential(nn.Linear(x.shape[-1], 32), nn.Tanh(), nn.Linear(32, 1))
    listed = ListHead(x.shape[-1])
    optimiser = torch.optim.AdamW([*point.parameters(), *listed.parameters()], 5e-3)
    calibrations = {"pooled KL": pooled_kl, "variance": score_variance}
    options = ViewOptions(calibration=calibrations.get(arm.removesuffix(", always")))
    if arm.endswith("always"):
        options = ViewOptions(trust=lambda gap: 1.0)
    grades = torch.from_numpy(human).float()
    for _ in range(STEPS):
        query = int(draw.choice(learnt))
        windows = cut(query, how, cosine, draw)
        windows = windows[draw.permutation(len(windows))[:WINDOWS_PER_STEP]]
        given = x[query][torch.from_numpy(windows)]
        s, p = listed(given), point(given)[..., 0]
        number = torch.arange(len(windows))[:, None].expand(windows.shape).flatten()
        label = grades[query][torch.from_numpy(windows)].flatten()
        same = torch.zeros_like(number)
        found = views_loss(s.flatten(), p.flatten(), label, same, number, options)
        loss = found.loss
        if arm == ARMS[1]:
            each = [pooled_kl(a, b) for a, b in zip(s, p, strict=True)]
            loss = loss + torch.stack(each).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    shares: dict[str, list[tuple[float, float]]] = {"list": [], "point": []}
    with torch.no_grad():
        for query in map(int, held_out):
            windows = cut(query, how, cosine, np.random.default_rng(1000 * seed + query))
            given = x[query][torch.from_numpy(windows)]
            number = np.repeat(np.arange(len(windows)), WINDOW)
            for name, scores in (("list", listed(given)), ("point", point(given)[..., 0])):
                pairs = ordered_pairs(
                    scores.double().numpy().flatten(), human[query][windows.flatten()], number
                )
                shares[name].append(tuple(p.right / p.total for p in pairs))  # type: ignore[arg-type]
    return {name: (np.array(s)[:, 0], np.array(s)[:, 1]) for name, s in shares.items()}


def run(seeds: int) -> Falsified:
    """All arms, both ways to cut."""
    texts, human = lee()
    x, cosine = features(texts)
    arms, across = [], {}
    for how in CUTS:
        for arm in ARMS:
            found = [trained(arm, how, x, cosine, human, seed) for seed in range(seeds)]
            across[how, arm] = np.array([f["list"][1] for f in found])
            within = [float(f["list"][0].mean()) for f in found]
            figures = {"within": within, "across": across[how, arm].mean(1).tolist()}
            arms.append(Arm(f"{how}: {arm}", figures))
        point = {
            name: [float(f["point"][k].mean()) for f in found]
            for k, name in enumerate(("within", "across"))
        }
        arms.append(Arm(f"{how}: point score", point))
    return Falsified(
        "listwise",
        f"human similarities of 50 news texts, {HELD_OUT} queries held out, {STEPS} steps of "
        f"{WINDOWS_PER_STEP} windows of {WINDOW}",
        arms,
        _claims(across, {arm.name: arm for arm in arms}),
    )


def _claims(across: dict[tuple[str, str], np.ndarray], arms: dict[str, Arm]) -> list[Claim]:
    def gain(how: str, arm: str) -> tuple[Interval, str]:
        """Over list only, paired by query and seed; queries of all seeds are resampled."""
        change = (across[how, arm] - across[how, ARMS[0]]).flatten()
        found = bootstrap_mean(change, np.random.default_rng(0))
        assert isinstance(found, Interval)
        told = f"{found.estimate:+.3f} [{found.low:+.3f}, {found.high:+.3f}], n {found.num_items}"
        return found, told

    pooled, wrong, variance = (gain(CUTS[1], ARMS[k]) for k in (2, 1, 3))
    random = gain(CUTS[0], ARMS[2])
    lost = [
        b - a
        for how in CUTS
        for a, b in zip(
            arms[f"{how}: {ARMS[0]}"].figures["within"],
            arms[f"{how}: {ARMS[2]}"].figures["within"],
            strict=True,
        )
    ]
    return [
        Claim(
            "first-stage windows: pooled KL raises accuracy across windows (page: +.189 +- .006)",
            pooled[1],
            pooled[0].low > 0,
        ),
        Claim(
            "first-stage windows: the variance form does too (page: .774 against .584)",
            variance[1],
            variance[0].low > 0,
        ),
        Claim(
            "first-stage windows: per-window KL raises it by less than half as much (page: -.033)",
            wrong[1],
            wrong[0].high < pooled[0].low / 2,
        ),
        Claim(
            "random windows: pooled KL changes little (page: +.018 +- .001)",
            random[1],
            abs(random[0].estimate) < pooled[0].estimate / 2,
        ),
        Claim(
            "within windows pooled KL loses at most .03 on average",
            f"{np.mean(lost):+.3f}",
            float(np.mean(lost)) >= -0.03,
        ),
    ]
