"""What each figure is called, how it is read, and what is missing where it is empty: one wording for all drawings."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Caption:
    """The words of one figure."""

    title: str
    reading: str
    """What is shown and how to read it."""
    nothing: str
    """What a study lacks for which the table is empty."""


CAPTIONS = {
    "best_so_far": Caption(
        "Best so far",
        "The line is the lowest loss of a trial trained to the end.",
        "No trial has ended with a loss yet.",
    ),
    "learning_curves": Caption(
        "Learning curves",
        "Validation loss by epoch; at a rung (dotted) ASHA stops the poorer trials.",
        "No trial has reported an epoch yet.",
    ),
    "importance": Caption(
        "Which hyperparameters matter",
        "PED-ANOVA tells what sets the best trials apart, fANOVA what explains the loss over the whole space. Where "
        "they disagree, a hyperparameter matters for staying out of trouble but not among the good, or the reverse.",
        "At least 10 trials that differ, with a loss at the same epoch, are needed.",
    ),
    "slices": Caption(
        "Loss by hyperparameter",
        "Each trial's last loss. Where it still falls at an end of the range, the range is too narrow there.",
        "No trial has reported an epoch yet.",
    ),
    "pair_grid": Caption(
        "Where good trials are",
        "Colour: lowest loss in the cell, of the trials in it that trained longest. Number: for how many epochs.",
        "At least two searched hyperparameters and a trial with a loss are needed.",
    ),
    "parallel": Caption(
        "Whole configurations",
        "A line a trial. Where the best lines stay apart on an axis, several values do; where they meet, one does.",
        "No trial has reported an epoch yet.",
    ),
    "rung_survival": Caption(
        "What each rung let pass",
        "Trials that reached each rung, and how many of them ASHA stopped there.",
        "No trial has reached a rung yet.",
    ),
    "rung_correlation": Caption(
        "Do early losses foretell late ones?",
        "Rank correlation of the losses at two rungs, among trials that reached both: near 1 an early rung is to be "
        "trusted. The trials that were stopped are missing here; with them it would as a rule be higher.",
        "At least 3 trials must have reached two rungs.",
    ),
    "timeline": Caption(
        "Who worked when",
        "One row per worker, one bar per trial; between them the worker was idle.",
        "No trial has started yet.",
    ),
    "loss_parts": Caption(
        "Reconstruction against KL",
        "Along a diagonal the loss is the same: a model to the right tells more in its code, one further up loses "
        "more of the image.",
        "No trial has reported an epoch yet.",
    ),
    "active_units": Caption(
        "Latents that are used",
        "On the line all latents are active. Models that fall below it have more latents than they use.",
        "No trial has reported an epoch yet.",
    ),
    "train_validation_gap": Caption(
        "Overfitting",
        "How much worse each model is on images that it was not trained on. The training loss is the mean over the "
        "last epoch, while the weights still moved. Models trained on an importance-weighted bound are missing: it is "
        "another loss.",
        "No trial that trains on the negative ELBO has reported an epoch yet.",
    ),
    "pareto": Caption(
        "Quality against size",
        "On the line no model that is as small is as good.",
        "No trial has reported an epoch yet.",
    ),
}
"""By name of the function that computes the table, in the order in which a study is told."""
