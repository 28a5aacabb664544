"""How often is advice wrong? Studies made up from a known truth, and each sentence of the advice judged by it.

Real searches on a simulated clock (sampler, early stopping, workers) see losses with noise; the judges see the truth.
Print the table of ``docs/advice.md`` with ``python -m tests.truths``.
"""

import argparse
import itertools
import math
import re
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.studies import hand_made
from vae_tune import TrialConfig
from vae_tune.analysis import advice
from vae_tune.analysis.early_stopping_audit import proportion_interval
from vae_tune.analysis.hyperparameters import Axis
from vae_tune.analysis.next_space import next_space
from vae_tune.config.names import COMPLETE, FAIL, PRUNED
from vae_tune.config.settings import AshaConfig
from vae_tune.config.space import DEFAULT_SPACE
from vae_tune.replay.curves import Curve
from vae_tune.replay.setting import Setting
from vae_tune.replay.simulator import simulate

KINDS = ("inside", "edge", "near", "flat", "interacting")
"""Where the optimum is: inside of all ranges; beyond one end; near an end, but inside; anywhere along one
hyperparameter or along all; inside of a valley that is oblique to the axes."""
SIZES = (12, 25, 50, 100, 200)
NAMES = ("latent_size", "hidden_width", "learning_rate")
BEYOND = 0.25  # of a range: how far past its end the next space goes
GRID = 21


@dataclass(frozen=True)
class Truth:
    """A loss that is known everywhere, and the noise with which a search sees it. Places are shares of a range."""

    optimum: np.ndarray
    """(3,) Places; beyond 0 to 1 where a range is too narrow."""
    weights: np.ndarray
    """(3,) Nats that half a range costs."""
    oblique: float
    """Correlation of latent size and learning rate, -1 to 1."""
    powers: np.ndarray
    """(3,) How the loss rises away from the optimum: 1 for a V, 2 for a parabola, 3 for a flat bottom."""
    most: float
    """Nats that the loss of poor configurations hardly exceeds, above the best; infinite for none."""
    overfits: float
    """Nats an epoch by which losses rise in the last third of the epochs."""
    max_epochs: int
    pace: float
    """How early the losses settle: 1 for hardly by the end, 4 for long before."""
    noise: float
    """Nats by which two trainings of one configuration differ (standard deviation)."""

    def final(self, places):
        """The loss at ``max_epochs`` without noise; ``places``: (..., 3)."""
        return self.at(places, self.max_epochs)

    def at(self, places, epoch):
        """The loss after an epoch without noise: a high learning rate is faster at first, and ends higher."""
        places = np.asarray(places, float)
        away = (places - self.optimum) * 2
        floor = (self.weights * np.abs(away) ** self.powers).sum(-1)
        floor += 2 * self.oblique * np.sqrt(self.weights[0] * self.weights[2]) * away[..., 0] * away[..., 2]
        floor = 105 + (floor if math.isinf(self.most) else self.most * (1 - np.exp(-floor / self.most)))
        speed = 0.35 + 0.5 * np.clip(places[..., 2], 0, 1.3)
        share = epoch / self.max_epochs
        start = 1 / self.max_epochs
        decay = 70 * (
            np.exp(-speed * 4 * self.pace * (share - start)) * 0.35
            + 0.65 * np.exp(-speed * 14 * self.pace * (share - start))
        )
        return floor + decay + self.overfits * np.maximum(0, epoch - 2 * self.max_epochs / 3)


def make_truth(kind, random):
    """Draw a truth of one kind."""
    optimum = random.uniform(0.3, 0.7, 3)
    weights = np.exp(random.uniform(math.log(1), math.log(15), 3))
    oblique = 0.0
    which = int(random.integers(3))
    high = random.random() < 0.5
    if kind == "edge":
        optimum[which] = random.uniform(1.1, 1.5) if high else random.uniform(-0.5, -0.1)
    if kind == "near":
        optimum[which] = random.uniform(0.85, 0.97) if high else random.uniform(0.03, 0.15)
    if kind == "flat":
        weights[which] = 0.0
        weights = weights * (random.random() < 0.5)
    if kind == "interacting":
        oblique = float(random.choice([-1, 1]) * random.uniform(0.6, 0.9))
    overfits = random.uniform(0.1, 0.5) if random.random() < 0.2 else 0.0
    max_epochs = int(random.choice([9, 10, 27]))
    powers = np.full(3, 2.0) if oblique else random.choice([1.0, 2.0, 3.0], 3)
    most = float(random.choice([math.inf, 25.0]))
    return Truth(
        optimum,
        weights,
        oblique,
        powers,
        most,
        overfits,
        max_epochs,
        float(random.uniform(1, 4)),
        float(random.uniform(0.1, 0.6)),
    )


AXES = {
    name: Axis(name, "log" if distribution.log else "linear", distribution.low, distribution.high)
    for name, distribution in DEFAULT_SPACE.distributions.items()
}
assert tuple(AXES) == NAMES


def places_of(values):
    """Where a configuration lies, (3,)."""
    return np.array([float(AXES[name].place(values[name])) for name in NAMES])


class Source:
    """Learning curves of any configuration, for the simulator; the n-th one asked for has the n-th noise."""

    best = 0.0

    def __init__(self, truth, seed, failing=0.02):
        self.truth = truth
        self.random = np.random.default_rng(seed)
        self.failing = failing
        self.curves = self
        self.reference = TrialConfig(max_epochs=truth.max_epochs)
        self.space = DEFAULT_SPACE

    def curve(self, values):
        """One training."""
        epochs = np.arange(1, self.truth.max_epochs + 1)
        losses = np.array([self.truth.at(places_of(values), epoch) for epoch in epochs])
        losses = (
            losses + self.random.normal(0, self.truth.noise) + self.random.normal(0, self.truth.noise / 3, len(epochs))
        )
        if self.random.random() < self.failing:
            losses[self.random.integers(len(epochs)) :] = np.inf
        return Curve(
            losses, np.full(len(epochs), self.random.uniform(0.8, 1.2) * (0.5 + values["hidden_width"] / 800))
        )


def search(truth, setting, trials, seed):
    """The trials of a search, as ``hand_made`` takes them."""
    made = []
    for trial in simulate(Source(truth, seed), setting, trials, seed):
        losses = [float(loss) for loss in trial.curve.losses[: trial.epochs]]
        state = trial.state
        if state == FAIL:
            losses = losses[: int(np.isfinite(losses).sum())]
        spent = np.cumsum(trial.curve.seconds[: trial.epochs])
        start = trial.ended - spent[-1]
        times = [float(start + seconds) for seconds in spent[: len(losses)]]
        size = trial.values["latent_size"]
        active = max(1, min(size, round(2 * 32 ** float(np.clip(truth.optimum[0], 0.3, 1)))))
        reason = "diverged: non-finite loss" if state == FAIL else ""
        made.append(
            {"losses": losses, "state": state, "started": float(start), "times": times, "ended": float(trial.ended)}
            | {"values": dict(trial.values), "active_units": active, "reason": reason}
        )
    return made


@dataclass
class Case:
    """A study with its truth."""

    truth: Truth
    study: object

    def loss(self, trial):
        """A trial's final loss without noise."""
        return float(self.truth.final(places_of(self.study.trials.loc[trial])))


def make_case(folder, kind, trials, seed):
    """A case, drawn."""
    random = np.random.default_rng([seed, trials, KINDS.index(kind)])
    truth = make_truth(kind, random)
    scheduler = str(random.choice(["asha", "asha", "none"]))
    sampler = str(random.choice(["tpe", "tpe", "random"]))
    asha = AshaConfig(scheduler=scheduler)
    made = search(truth, Setting(sampler, asha, int(random.choice([1, 2, 4]))), trials, seed)
    return Case(truth, hand_made(folder, *made, max_epochs=truth.max_epochs, asha=asha, sampler=sampler))


def box_minimum(truth, lows, highs):
    """The least final loss within a box of places, to some hundredths of a nat."""
    sides = [
        np.append(np.linspace(low, high, GRID), np.clip(optimum, low, high))
        for low, high, optimum in zip(lows, highs, truth.optimum, strict=True)
    ]
    return float(truth.final(np.stack(np.meshgrid(*sides, indexing="ij"), -1)).min())


def gain_beyond(truth, name, end):
    """Nats that a range which goes on past one end would gain."""
    lows, highs = np.zeros(3), np.ones(3)
    inside = box_minimum(truth, lows, highs)
    which = NAMES.index(name)
    if end == "low":
        lows[which] -= BEYOND
    else:
        highs[which] += BEYOND
    return inside - box_minimum(truth, lows, highs)


def shares(truth):
    """The variance over the space that each hyperparameter explains alone."""
    sides = np.linspace(0, 1, GRID)
    losses = truth.final(np.stack(np.meshgrid(sides, sides, sides, indexing="ij"), -1))
    others = ((1, 2), (0, 2), (0, 1))
    return dict(zip(NAMES, (float(losses.mean(axis=axes).var()) for axes in others), strict=True))


def _edge_is_wrong(case, found):
    return gain_beyond(case.truth, found["name"], found["end"]) <= 0.05


def _a_range_is_narrow(case, _):
    return max(gain_beyond(case.truth, name, end) for name in NAMES for end in ("low", "high")) > 0.5


def _another_matters_more(case, found):
    true = shares(case.truth)
    return true[found["name"]] < 0.9 * max(true.values()) or max(true.values()) == 0


def _good_were_kept(case, found):
    """Whether below a tenth of the trials that the rung stopped would have ended in the better half of the others."""
    trials = case.study.trials
    whole = [case.loss(trial) for trial in trials.index[trials.state == COMPLETE]]
    stopped = trials.index[(trials.state == PRUNED) & (trials.epochs == int(found["epoch"]))]
    return np.mean([case.loss(trial) <= np.median(whole) for trial in stopped]) < 0.1


def _winners_curve(case):
    places = places_of(case.study.best)
    return [float(case.truth.at(places, epoch)) for epoch in range(1, case.truth.max_epochs + 1)]


def _slope(case):
    curve = _winners_curve(case)
    window = max(2, len(curve) // 10)
    return (curve[-1] - curve[-1 - window]) / window


SENTENCES = {
    "below the reference": (
        r"The best is trial \d+: .* below the reference\.",
        "the winner is no better than the reference",
        lambda case, _: case.loss(case.study.best.name) >= case.loss(0),
    ),
    "The best is trial": (r"The best is trial \d+|No trial has", "", None),
    "matters most": (
        r"(?P<name>\w+) matters most: ",
        "another explains a tenth more of the variance",
        _another_matters_more,
    ),
    "which matters most is not clear": (r"Which hyperparameter matters most", "", None),
    "Search above, Search below": (
        r"The best values of (?P<name>\w+) lie at the (?P<end>low|high) end",
        "a quarter of the range more gains nothing",
        _edge_is_wrong,
    ),
    "lie at neither end of any range": (
        r"The best of \d+ trials .* neither end",
        "a quarter more of a range gains half a nat",
        _a_range_is_narrow,
    ),
    "It may stop good trials": (
        r"The rung at epoch (?P<epoch>\d+) .*It may stop good trials",
        "below a tenth of the stopped would have ended in the better half",
        _good_were_kept,
    ),
    "The rung at epoch": (r"The rung at epoch \d+", "", None),
    "the last improvement": (r"The last improvement|None of the \d+ trials that ended", "", None),
    "Train longer": (
        r"The winner's loss was still falling",
        "it falls by below 0.1 nats per epoch",
        lambda case, _: _slope(case) > -0.1,
    ),
    "It overfits": (
        r"The winner was best at epoch",
        "the last epoch is the best",
        lambda case, _: min(_winners_curve(case)) == _winners_curve(case)[-1],
    ),
    "had converged": (
        r"The winner had converged",
        "it changes by above 0.3 nats per epoch",
        lambda case, _: abs(_slope(case)) > 0.3,
    ),
    "whether it had converged is not clear": (r"Whether the winner had converged", "", None),
    "latents are active": (r"\d+ of the winner's \d+ latents", "", None),
    "trials failed": (r"\d+ of \d+ trials failed|No trial failed", "", None),
}
"""By sentence: the start of the sentence, when it is wrong, and a function that decides; None for a mere count."""


def judge(case):
    """Yield each sentence, whether it is certain, and whether it is wrong."""
    for finding in advice.conclusions(case.study):
        for said, (pattern, _, wrong) in SENTENCES.items():
            if found := re.match(pattern, str(finding)):
                yield said, finding.certain, wrong is not None and bool(wrong(case, found.groupdict()))
                break
        else:
            raise AssertionError(f"no rule for: {finding}")


def next_space_is_wrong(case):
    """Whether the next space leaves out the best of the old one: by half a nat."""
    space = next_space(case.study)
    if space is None:
        return None
    lows, highs = np.zeros(3), np.ones(3)
    for which, name in enumerate(NAMES):
        axis = AXES[name]
        lows[which], highs[which] = axis.place([space.distributions[name].low, space.distributions[name].high])
    lost = box_minimum(case.truth, lows, highs) - box_minimum(case.truth, [0, 0, 0], [1, 1, 1])
    return lost > 0.5


NEXT = "the next space"


def count(studies, sizes=SIZES, kinds=KINDS, seed=0):
    """Count how often each sentence was said and how often it was wrong: {(said, certain): {size: [said, wrong]}}."""
    counts = defaultdict(lambda: {size: [0, 0] for size in sizes})
    with tempfile.TemporaryDirectory() as folder:
        for number, size, kind in itertools.product(range(studies), sizes, kinds):
            case = make_case(Path(folder) / f"{kind}-{size}-{number}", kind, size, seed + number)
            told = [*judge(case)]
            if (left_out := next_space_is_wrong(case)) is not None:
                told.append((NEXT, False, left_out))
            for said, certain, wrong in told:
                counts[said, certain][size][0] += 1
                counts[said, certain][size][1] += wrong
    return counts


def total(sizes):
    """Return how often a sentence was said and wrong, over all sizes of study."""
    return tuple(sum(pair[index] for pair in sizes.values()) for index in (0, 1))


def table(counts):
    """Return the counts as a table of Markdown; what cannot be wrong, since it only counts, is left out."""
    yield f"| the report says | it is wrong where | {' | '.join(f'{size} trials' for size in SIZES)} | wrong |"
    yield f"|---|---|{'---:|' * (len(SIZES) + 1)}"
    rules = {said: words for said, (_, words, _) in SENTENCES.items()} | {NEXT: "it leaves out the best by half a nat"}
    for (said, certain), sizes in sorted(counts.items(), key=lambda item: [*rules].index(item[0][0])):
        if rules[said]:
            cells = " | ".join(f"{wrong} of {often}" for often, wrong in sizes.values())
            often, wrong = total(sizes)
            low, high = proportion_interval(wrong, often)
            words = f"**{said}**" if certain else said
            yield f"| {words} | {rules[said]} | {cells} | {wrong / often:.0%} ({low:.0%} to {high:.0%}) |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=20, help="for each size and kind of truth")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(*table(count(options.studies, seed=options.seed)), sep="\n")
