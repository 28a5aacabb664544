"""Every reported key, column and file name, written once."""

VAL_LOSS = "val_loss"
"""The validation negative ELBO at KL weight 1: see :data:`vae_tune.config.metric.METRIC`."""
DIMENSIONS = "dimensions"
"""Values of an image: nats / (dimensions x ln 2) are bits per dimension."""
LOSSES = "losses"
"""Entry of study.json if a user's metric ranks trials: unit and kind of ``val_loss``; else ``metric`` has them."""
COLUMNS, FUNCTION, SHA256 = "columns", "function", "sha256"
"""Entries of a user's metric in study.json: the names of its values, its own name, the hash of its code."""
SLURM_JOB = "slurm_job"
"""Entry of a run in study.json: the id of the Slurm job that it was, if it was one."""
SBATCH = "sbatch"
"""Entry of a run in study.json: the options of ``sbatch`` that say what its Slurm job was given."""
SLOTS, SLOT_CHANGES = "slots", "slot_changes"
"""Entries of a run in study.json: the slots at its start, and those after each change, with its ``time``."""

# Keys of a report and columns of epochs.csv and trials.csv
TRIAL, STATE, REASON = "trial", "state", "reason"
EPOCH, EPOCHS = "epoch", "epochs"
TRAIN_LOSS, TEST_LOSS = "train_loss", "test_loss"
VAL_RECONSTRUCTION, VAL_KL, ACTIVE_UNITS = "val_reconstruction", "val_kl", "active_units"
SECONDS, EVALUATION_SECONDS = "seconds", "evaluation_seconds"
IMAGES_PER_SECOND = "images_per_second"
TIME, STARTED, ENDED = "time", "started", "ended"
ORDER = "order"
WARM_START = "warm_start"
STORAGE_ERROR, GPU_ERROR, METRIC_ERROR = "storage_error", "gpu_error", "metric_error"
GPU_MEMORY = "gpu_memory"
"""Key of the report of a trial that ran out of its GPU's memory: what it held, and what was free."""
METRICS = "metrics"
"""Field of an epoch's report with the values of a user's metric by name."""
METRICS_PREFIX = f"{METRICS}/"
"""Before the name of each value in a worker's report: Ray Tune flattens a report so."""
RANKED_LOSS = "ranked_loss"
"""The loss that ranks a report, in a study with a user's metric; in other studies ``val_loss`` ranks it."""
NODE, DEVICE = "node", "device"
AUDITED, COLLAPSED, DIVERGED = "audited", "collapsed", "diverged"
CLOSED, COMPLETE_AT = "closed", "complete_at"
"""Attributes of a trial that is opened again, or cannot be: see :class:`vae_tune.record.trials.TrialRow`."""

# Columns in the order in which they are written, with their pandas types
MOMENT = "datetime64[ms, UTC]"
REPORT_COLUMNS = {
    EPOCH: "int64",  # from 1
    TRAIN_LOSS: "float64",  # nats per image, as all losses; mean over the epoch
    VAL_LOSS: "float64",  # after the epoch
    VAL_RECONSTRUCTION: "float64",
    VAL_KL: "float64",
    ACTIVE_UNITS: "int64",
    SECONDS: "float64",  # of the epoch, evaluation included
    IMAGES_PER_SECOND: "float64",  # training images, evaluation excluded
}
TRIAL_COLUMNS_BEFORE = {
    TRIAL: "int64",
    STATE: "category",
    REASON: "str",
    EPOCHS: "int64",
    VAL_LOSS: "float64",  # nats per image, newest report
    VAL_RECONSTRUCTION: "float64",
    VAL_KL: "float64",
}
"""Columns before the hyperparameters."""
TRIAL_COLUMNS_AFTER = {
    STARTED: MOMENT,
    ENDED: MOMENT,
    SECONDS: "float64",  # sum over the epochs
    NODE: "str",
    DEVICE: "str",
    AUDITED: "Int64",  # epoch of the rung that would have stopped it
    COLLAPSED: "bool",
    DIVERGED: "bool",
}

GPUS = "gpus"
"""Key of a Ray Tune trial's share of a GPU in its config."""
VALUES = "values"
"""Key of the hyperparameters in a Ray Tune trial's config, beside the trial's number."""

# Trial states are Optuna's
COMPLETE, PRUNED, FAIL, RUNNING = "COMPLETE", "PRUNED", "FAIL", "RUNNING"
STATES = (COMPLETE, PRUNED, FAIL, RUNNING)
IDLE = "IDLE"
"""State of a worker, in a timeline, that trains no trial."""
STATE_WORDS = {COMPLETE: "complete", PRUNED: "pruned", FAIL: "failed", RUNNING: "unfinished", IDLE: "idle"}
"""The word that people read for each state."""

PICTURES = ("samples", "reconstructions", "interpolations", "traversals", "manifold", "map")
"""The pictures that ``vae-tune generate`` can draw."""

# What a study is
SEARCH, EXPLORATION, CONFIRMATION = "search", "exploration", "confirmation"
KINDS = (SEARCH, EXPLORATION, CONFIRMATION)
"""Whose configurations a sampler proposes; a grid of ``vae-tune explore``; the fresh seeds of ``--confirm``."""

# What became of a search, beside "running" and "complete"
INTERRUPTED = "interrupted"
PAUSED = "paused"
TIME_BUDGET = "time budget used"
EPOCH_BUDGET = "epoch budget used"
TARGET_LOSS = "target loss reached"
FAILED = "failed"

# Columns of what vae_tune.plots computes
STUDY, BEST, FINISHED, HOURS = "study", "best", "finished", "hours"
HYPERPARAMETER, VALUE, METHOD, IMPORTANCE = "hyperparameter", "value", "method", "importance"
RUNG = "rung"
REACHED, STOPPED, SHARE = "reached", "stopped", "share"
EPOCH_A, EPOCH_B, SPEARMAN = "epoch_a", "epoch_b", "spearman"
TRIALS, WORKER = "trials", "worker"
START, END, START_HOURS, END_HOURS = "start", "end", "start_hours", "end_hours"
GAP = "gap"
PARAMETERS, ON_FRONT = "parameters", "on_front"
LIKELIHOOD, LATENT_SIZE, SEED = "likelihood", "latent_size", "seed"
ENCODER_ACTIVATION = "encoder_activation"
CODE_LENGTH = "code_length"
LOW, HIGH = "low", "high"
STATUS, TRAIN_IMAGES, MAX_EPOCHS = "status", "train_images", "max_epochs"
BEST_TRIAL, BEST_EPOCHS, REFERENCE_LOSS = "best_trial", "best_epochs", "reference_loss"
FOUND_HOURS, WALL_HOURS, CPU_HOURS, GPU_HOURS = "found_hours", "wall_hours", "cpu_hours", "gpu_hours"

SEARCHED, OPTIMISM = "searched_", "optimism"
"""Columns of confirmation.csv: before the name of what ranks trials, its value in the search; by how much that is
better than with fresh seeds."""

REOPENED = "vae_tune:reopened"
"""User attribute of a study whose journal was written anew, and entry of its study.json: ``max_epochs``, and in
``before``, for each earlier journal, its ``max_epochs``, how many trials were complete there, and when it ended."""

CODE = "code"
"""Entry of study.json with signature and hash of each user's class; folder in best/ with a copy to read."""
METRIC, METRIC_CODE = "metric", "metric_code"
"""Entry of training.json and of the header of model.safetensors with a user's metric; folder in best/ with a copy of
its code to read."""

# A study folder, and that of a single training
STUDY_FILE = "study.json"
JOURNAL_FILE = "optuna.journal"
EARLIER_JOURNALS = "optuna-{}.journal"
"""Names of the journals before the one that was written anew, numbered from 1."""
LOCK_FILE = "study.lock"
COPY_FILE = "copy.json"
TRIALS_FILE = "trials.csv"
EPOCHS_FILE = "epochs.csv"
BEST_FOLDER = "best"
MODEL_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
METRICS_FILE = "metrics.json"
SAMPLES_FILE = "samples.png"
RECONSTRUCTIONS_FILE = "reconstructions.png"
TRAINING_FILE = "training.json"
EPOCH_METRICS_FILE = "metrics.csv"
CHECKPOINTS_FOLDER = "checkpoints"
REPORT_FILE = "report.html"
CONFIRMATION_FOLDER = "confirmation"
CONFIRMATION_FILE = "confirmation.csv"
EXPLORED_FILE = "explored.csv"
LATENT_SIZES_FILE = "latent_sizes.csv"
LATENT_SIZES_PLOT = "latent_sizes.png"
CURVES_FILE = "curves.csv.gz"
FORECAST_FILE = "forecast.json"
REPLAY_FOLDER = "replay"
REPLAY_SUMMARY_FILE = "summary.csv"
REPLAY_REGRET_FILE = "regret.csv"
REPLAY_PLOT_FILE = "regret.png"
REPLAY_PAGE_FILE = "replay.html"
RAY_FOLDER = "ray"
TENSORBOARD_FOLDER, WANDB_FOLDER = "tensorboard", "wandb"
RAY_LOG_FILE = "driver.log"

ARRAYS = "arrays from Python"
"""In place of a data set: the images were given to ``run_search``."""
REFERENCE_TRIAL = 0
"""The number of the trial that trains the reference configuration."""
