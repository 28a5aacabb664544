"""``vae-tune evaluate``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from vae_tune.cli.command import Command, ModelOptions
from vae_tune.config.fields import require


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(ModelOptions):
    """Evaluate a trained model: negative ELBO and likelihood.

    Also shows the two parts of the negative ELBO and the number of active latents.
    """

    images: int | None = None
    """Use only the first N images; default: all."""
    nll_samples: int | None = None
    """Also estimate the negative log-likelihood, with this many importance samples per image (Burda et al.: 5000)."""
    metric: str | None = None
    """Also compute your own function of the model and the images, FILE.py:FUNCTION or MODULE:FUNCTION."""
    json: bool = False
    """Print JSON instead of a table."""

    def __post_init__(self) -> None:
        """Refuse counts below 1."""
        super().__post_init__()
        for name in ("images", "nll_samples"):
            value = getattr(self, name)
            require(self, name, value is None or value >= 1, ">= 1")


def run(options: EvaluateOptions) -> None:
    """Evaluate a model and print the result."""
    from vae_tune.tasks.evaluate import evaluate_model

    result = evaluate_model(
        options.model,
        options.split,
        options.other_data,
        images=options.images,
        nll_samples=options.nll_samples,
        network=options.network,
        metric=options.metric,
    )
    print(json.dumps(result, indent=2) if options.json else "\n".join(_lines(result)))


def _lines(result: dict[str, Any]) -> list[str]:
    from vae_tune.analysis.loss_unit import LossUnit

    unit = LossUnit.of(result)
    lines = [
        f"{result['model']} on {result['images']:,} {result['split']} images of {result['dataset']}",
        f"In {unit.title}:",
        f"  negative ELBO     {unit.text(result['negative_elbo']):>9}",
        f"    reconstruction  {unit.text(result['reconstruction']):>9}",
        f"    KL              {unit.text(result['kl']):>9}",
    ]
    if nll := result.get("nll"):
        error = nll["standard_error"]
        deviation = "" if error is None else f" +- {unit.text(error)} (standard error over images)"
        lines.append(f"  NLL               {unit.text(nll['mean']):>9}{deviation}")
        lines.append(f"    from {nll['samples']:,} samples per image, in {nll['seconds']:.0f} s")
        if not unit.kind.is_likelihood:
            note = "Grey values have no likelihood: do not compare this NLL with one of binary images."
            lines.append(f"  {note} See --binarization.")
    if own := result.get("metrics"):
        width = max(map(len, own))
        lines += [f"By {result['metric']}:", *(f"  {name:{width}}  {value:.6g}" for name, value in own.items())]
    return [*lines, f"{result['active_units']} of {result['latent_size']} latents active"]


COMMAND = Command(EvaluateOptions, run, ("results/NAME", "results/NAME/best --nll-samples 5000 --images 1000 --json"))
