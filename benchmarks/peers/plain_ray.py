"""Ray Tune as its documentation shows it: a function trainable, OptunaSearch, ASHAScheduler.

python plain_ray.py KERNEL FOLDER NUM_SAMPLES TRAIN_SIZE MAX_EPOCHS
"""

import sys
from pathlib import Path
from typing import Any

import ray
from common import ranges
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

PLACE = Path(__file__).parent


def trainable(config: dict[str, Any]) -> None:
    sys.path.insert(0, str(PLACE))
    from common import logged, train

    trial = tune.get_context().get_trial_id()
    losses = train(config["kernel"], config, config["train_size"], config["max_epochs"])
    for _, loss in logged(Path(config["folder"]), trial, losses):
        tune.report({"val_loss": loss})


def main() -> None:
    kernel, folder, num_samples, train_size, max_epochs = sys.argv[1:]
    space = ranges(Path(folder))
    ray.init("local", num_cpus=2)  # a Ray of its own, and two trials side by side on a larger machine too
    tuner = tune.Tuner(
        tune.with_resources(trainable, {"cpu": 1}),
        param_space={
            "latent_size": tune.lograndint(space["latent_size"][0], space["latent_size"][1] + 1),
            "hidden_width": tune.lograndint(space["hidden_width"][0], space["hidden_width"][1] + 1),
            "learning_rate": tune.loguniform(*space["learning_rate"]),
            "kernel": kernel,
            "folder": folder,
            "train_size": int(train_size),
            "max_epochs": int(max_epochs),
        },
        tune_config=tune.TuneConfig(
            metric="val_loss",
            mode="min",
            search_alg=OptunaSearch(),
            scheduler=ASHAScheduler(max_t=int(max_epochs), grace_period=1, reduction_factor=3),
            num_samples=int(num_samples),
        ),
        run_config=tune.RunConfig(storage_path=f"{folder}/ray"),
    )
    tuner.fit()


if __name__ == "__main__":
    main()
