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
        "they disagree, a hyperparameter only tells bad trials from good ones, or only good ones from the best.",
        "At least 10 trials that differ, with a loss at the same epoch, are needed.",
    ),
    "slices": Caption(
        "Loss by hyperparameter",
        "Each trial's last loss. Where it still falls at an end of the range, the range may be too narrow there.",
        "No trial has reported an epoch yet.",
    ),
    "pair_grid": Caption(
        "Where good trials are",
        "The colour is the lowest loss among the trials in the cell that trained longest, the number is their epochs.",
        "At least two searched hyperparameters and a trial with a loss are needed.",
    ),
    "parallel": Caption(
        "Whole configurations",
        "One line per trial. Where the best lines spread out on an axis, several values work; where they meet, one "
        "value works best.",
        "No trial has reported an epoch yet.",
    ),
    "rung_survival": Caption(
        "What each rung let pass",
        "Trials that reached each rung, and how many of them ASHA stopped there.",
        "No trial has reached a rung yet.",
    ),
    "rung_correlation": Caption(
        "Do early losses foretell late ones?",
        "Rank correlation of the losses at two rungs, among trials that reached both: near 1 an early rung can be "
        "trusted. Pruned trials are missing here; with them the correlation would usually be higher.",
        "At least 3 trials must have reached two rungs.",
    ),
    "timeline": Caption(
        "Who worked when",
        "One row per worker, one bar per trial; in the gaps the worker was idle.",
        "No trial has started yet.",
    ),
    "loss_parts": Caption(
        "Reconstruction against KL",
        "All points on a diagonal have the same loss: models to the right store more in the latents, models further "
        "up lose more of the image.",
        "No trial has reported an epoch yet.",
    ),
    "active_units": Caption(
        "Latents that are used",
        "On the line all latents are active. A model below it has more latents than it uses.",
        "No trial has reported an epoch yet.",
    ),
    "train_validation_gap": Caption(
        "Overfitting",
        "How much worse each model is on images that it was not trained on. The training loss is the mean over the "
        "last epoch, during which the weights still changed. Models trained on an importance-weighted bound are left "
        "out: their training loss is a different one.",
        "No trial that trains on the negative ELBO has reported an epoch yet.",
    ),
    "pareto": Caption(
        "Quality against size",
        "The line joins the models that no other model beats in both size and loss.",
        "No trial has reported an epoch yet.",
    ),
}
"""By name of the function that computes the table, in the order in which a study is told."""
