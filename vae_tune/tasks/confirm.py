"""Confirmation: the best configurations of a search and the reference, trained again with fresh seeds.

The best of many trials is in part the luckiest, so its validation loss is too low (the winner's curse). Fresh seeds
show by how much. A confirmation is a study in the folder of the search, resumed and audited like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.distributions import CategoricalDistribution, IntDistribution

from vae_tune.config import names
from vae_tune.config.csv_tables import to_csv
from vae_tune.config.fields import to_dict
from vae_tune.config.files import atomic, read_json
from vae_tune.config.metric import METRIC
from vae_tune.config.settings import NO_EARLY_STOPPING, SearchConfig, TrialConfig
from vae_tune.config.space import Grid, Space
from vae_tune.config.trial_values import MODEL, with_values
from vae_tune.images.datasets import Images
from vae_tune.record.metadata import space_to_dict
from vae_tune.record.trials import TrialRow, ranked

if TYPE_CHECKING:
    import pandas as pd

    from vae_tune.record.study_record import StudyRecord
    from vae_tune.vae.user_metric import UserMetric


def shortage(config: SearchConfig) -> str | None:
    """Return a warning if a search is to confirm more configurations than it trains."""
    asked, trials = config.confirm, config.num_samples
    warning = f"Only {trials} configurations can be confirmed, not {asked}: there are no more trials."
    return warning if asked > trials else None


def candidates(rows: Sequence[TrialRow], max_epochs: int, count: int) -> list[TrialRow]:
    """Return the best ``count`` COMPLETE trials with different hyperparameters, and the reference."""
    best: list[TrialRow] = []
    for row in [row for row in ranked(rows, max_epochs) if row.state == names.COMPLETE]:
        if len(best) < count and _values(row) not in map(_values, best):
            best.append(row)
    reference = [row for row in rows if row.trial == names.REFERENCE_TRIAL and row.state == names.COMPLETE]
    return best + [row for row in reference if _values(row) not in map(_values, best)]


def plan(
    rows: Sequence[TrialRow], base: TrialConfig, config: SearchConfig, folder: Path, used: Collection[int]
) -> tuple[SearchConfig, Grid]:
    """Return the study that trains each of ``rows`` with every fresh seed, without early stopping.

    A seed is fresh if it is not in ``used``. The study gets the first folder that is free, or that holds the same
    confirmation already.
    """
    following = (number % 2**32 for number in count(base.seed + 1))
    seeds = list(islice((seed for seed in following if seed not in used), config.confirm_seeds))
    points = [{**_values(row), names.SEED: seed} for seed in seeds for row in rows]
    searched = dict.fromkeys(name for row in rows for name in _values(row))
    having = {name: [point for point in points if name in point] for name in searched}
    choices = {name: dict.fromkeys(point[name] for point in some) for name, some in having.items()}
    distributions = {name: CategoricalDistribution(list(values)) for name, values in choices.items()}
    conditions = {
        name: tuple(dict.fromkeys(point[MODEL] for point in some))
        for name, some in having.items()
        if len(some) < len(points)
    }
    space = Space({**distributions, names.SEED: IntDistribution(min(seeds), max(seeds))}, conditions=conditions)
    trial = with_values(base, points[0])
    wanted = {"reference": to_dict(trial), "space": space_to_dict(space)["space"], "trials": len(points)}
    folders = [names.CONFIRMATION_FOLDER, *(f"{names.CONFIRMATION_FOLDER}-{number}" for number in range(2, 1000))]
    name = next(name for name in folders if _identity(folder / name) in (None, wanted))
    confirmation = replace(
        config,
        num_samples=len(points),
        study_name=name,
        results_dir=folder,
        space=None,
        resume=folder / name if _identity(folder / name) else None,
        time_budget=None,
        max_total_epochs=None,
        target_loss=None,
        points=None,
        warm_start=(),
        keep=len(points),
        confirm=0,
        sampler="random",  # never asked: every trial is a point of the grid
        asha=NO_EARLY_STOPPING,
        trial=trial,
    )
    return confirmation, Grid(names.CONFIRMATION, space, points[1:])


def compare(
    confirmation: StudyRecord,
    searched: Sequence[TrialRow],
    images: Images,
    say: Callable[[str], None],
    metric: UserMetric | None = None,
) -> pd.DataFrame:
    """Evaluate the confirmation of ``searched`` on the test images, and write its table to the folder of the search.

    Returns:
        One row per trial of ``searched``: its number, hyperparameters and val_loss in the search; the number of its
        repeats, and mean, deviation and 95 % interval of their val_loss and test_loss; and the optimism of the search,
        the mean val_loss of the repeats minus that of the search. Nats per image. With a user's metric, its values
        take the place of val_loss and test_loss, under its name; its optimism is positive where fresh seeds are worse.
    """
    import pandas as pd

    from vae_tune.tasks.repeats import evaluate_trials, summarize_seeds

    complete = [row for row in confirmation.rows if row.state == names.COMPLETE]
    if not complete:
        return pd.DataFrame()
    table = evaluate_trials(confirmation.place, complete, images, say, metric)
    origin = {_key(row): row.trial for row in searched}
    table["configuration"] = [origin[_key(row)] for row in complete]
    ranking = metric.ranking if metric else METRIC
    columns = ranking.name, ranking.test_name
    spreads = summarize_seeds(table, ["configuration"], columns).set_index("configuration")
    result = []
    for row in searched:
        if row.trial not in spreads.index:  # all its repeats failed
            continue
        fresh: Any = spreads.loc[row.trial].to_dict()
        fresh[names.TRIALS] = int(fresh[names.TRIALS])  # pandas made it a float
        found = {f"{names.SEARCHED}{ranking.name}": row.reports[-1][ranking.name]}
        optimism = ranking.loss(fresh[f"{ranking.name}_mean"]) - (row.loss or 0)
        result.append({names.TRIAL: row.trial, **_values(row), **found, names.OPTIMISM: optimism, **fresh})
    frame = pd.DataFrame(result)
    with atomic(confirmation.folder.parent / names.CONFIRMATION_FILE) as file:
        file.write(to_csv(frame.assign(kind=confirmation.metadata["metric"]["kind"])))
    return frame


def _values(row: TrialRow) -> dict[str, Any]:
    return {name: value for name, value in row.values.items() if name != names.SEED}


def _key(row: TrialRow) -> frozenset[tuple[str, Any]]:
    return frozenset(_values(row).items())


def _identity(folder: Path) -> dict[str, Any] | None:
    """Return what distinguishes the confirmation in ``folder`` from others; None if there is none."""
    if not (folder / names.STUDY_FILE).exists():
        return None
    metadata = read_json(folder / names.STUDY_FILE)
    return {**{name: metadata[name] for name in ("reference", "space")}, "trials": metadata["config"]["num_samples"]}
