"""How often is a replay's forecast of 50 more trials wrong? Judged by 50 real trials more, on a known truth.

Print the rates of ``docs/advice.md`` with ``python -m tests.forecast_truths``.
"""

import argparse
import itertools
import re
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np

from tests.studies import hand_made
from tests.truths import KINDS, make_truth, search
from vae_tune.config.names import COMPLETE
from vae_tune.config.settings import AshaConfig
from vae_tune.replay.forecast import MORE, forecast
from vae_tune.replay.setting import Setting


def count_forecasts(studies, seed=0):
    """Count the forecasts for 50 more trials: {(advice, certain): [said, wrong]}; and [said, gain within].

    It is wrong that they are not worth it where they gain half a nat, and to go on where they gain below 0.1.
    """
    counts, within = defaultdict(lambda: [0, 0]), [0, 0]
    with tempfile.TemporaryDirectory() as folder:
        for number, size, kind in itertools.product(range(studies), (50, 100), KINDS):
            truth = make_truth(kind, np.random.default_rng([seed + number, size, KINDS.index(kind)]))
            made = search(truth, Setting("tpe", AshaConfig(), 2), size + MORE, seed + number)
            study = hand_made(Path(folder) / f"{kind}-{size}-{number}", *made[:size], max_epochs=truth.max_epochs)
            later = min(trial["losses"][-1] for trial in made if trial["state"] == COMPLETE)
            gain = study.best.val_loss - later
            for finding in forecast(study, seconds=60):
                if found := re.match(r"50 more trials .* \((?P<low>[\d.]+) to (?P<high>[\d.]+)", finding.text):
                    little = finding.advice.startswith("They are not worth it")
                    pair = counts["They are not worth it" if little else "To go on", finding.certain]
                    pair[0] += 1
                    pair[1] += bool(gain > 0.5 if little else gain < 0.1)
                    within[0] += 1
                    within[1] += float(found["low"]) <= round(gain, 2) <= float(found["high"])
    return counts, within


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=20, help="for each size and kind of truth")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    forecasts, (said, held) = count_forecasts(options.studies, options.seed)
    for (words, certain), (often, wrong) in forecasts.items():
        print(f"{words}{', in bold' if certain else ''}: {wrong} of {often} wrong")
    print(f"The gain was within what the replays gave for {held} of {said}.")
