"""A user's metric: what it is called with, what it may return, and what it leaves alone."""

import random
import re
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

from vae_tune.config.errors import UsageError
from vae_tune.config.settings import SearchConfig, TrialConfig
from vae_tune.vae.model import build_model
from vae_tune.vae.training import fit, new_state
from vae_tune.vae.user_metric import MetricFailed, probe_metric, read_metric

SMALL = TrialConfig(latent_size=3, hidden_width=8, max_epochs=2, batch_size=16)
CPU = torch.device("cpu")
SHAPE = (1, 4, 4)
RANDOM = "import random, numpy as np"
PAIR = np.arange(32, dtype=np.uint8).reshape(2, *SHAPE)


@pytest.fixture
def metric(tmp_path, monkeypatch):
    """Return the metric ``f`` of a file with the given body, called with an untrained model and two images."""
    monkeypatch.chdir(tmp_path)

    def read(body, *, probed=True, maximize=False, more=""):
        text = f"{more}\nimport torch\ndef f(model, images):\n{textwrap.indent(textwrap.dedent(body), '    ')}\n"
        (tmp_path / "mine.py").write_text(text)
        found = read_metric("mine.py:f", maximize=maximize)
        return probe_metric(found, SMALL, SHAPE, PAIR) if probed else found

    return read


def refused(read):
    with pytest.raises(UsageError) as error:
        read()
    return str(error.value)


def test_a_number_is_called_by_the_name_of_the_function(metric):
    found = metric("return images.mean() * 2")
    assert (found.ranking.name, found.ranking.columns, found.ranking.direction) == ("f", ("f",), "minimize")
    assert found(build_model(SMALL, SHAPE), torch.ones(5, *SHAPE)) == {"f": 2.0}


def test_of_a_dict_the_first_value_ranks_and_all_are_recorded(metric):
    found = metric("return {'blur': images.max().item(), 'count': len(images), 'np': __import__('numpy').float32(1)}")
    assert (found.ranking.name, found.ranking.columns) == ("blur", ("blur", "count", "np"))


def test_the_sign_is_the_users_in_the_report_and_that_of_a_loss_in_what_ranks(metric):
    found = metric("return {'a': 3.0, 'b': 1.0}", maximize=True)
    assert found.report({"a": 3.0, "b": 1.0}) == {"metrics/a": 3.0, "metrics/b": 1.0, "ranked_loss": -3.0}
    assert found.describe()["direction"] == "maximize"


def test_it_is_called_in_eval_mode_without_gradients_on_images_in_0_to_1(metric):
    found = metric(
        """
        assert not model.training and not torch.is_grad_enabled()
        assert images.dtype == torch.float32 and 0 <= images.min() and images.max() <= 1
        return model.decode(model.encode(images)).mean()
        """
    )
    model = build_model(SMALL, SHAPE).train()
    found(model, torch.rand(3, *SHAPE))
    assert model.training


def test_its_random_numbers_are_always_the_same_and_change_no_others(metric):
    found = metric(
        "return torch.rand(1).item() + random.random() + np.random.rand()", more="import random, numpy as np"
    )
    model, values = build_model(SMALL, SHAPE), []
    for seed in (1, 2):
        torch.manual_seed(seed), random.seed(seed), np.random.seed(seed)
        before = torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()
        values.append(found(model, torch.ones(1, *SHAPE)))
        assert before == (torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist())
    assert values[0] == values[1]


def test_a_training_with_a_metric_gives_the_same_losses_and_reports_its_values(metric, tiny):
    found = metric("torch.rand(7)\nreturn float(len(images))")
    plain = list(fit(SMALL, tiny, CPU, new_state(SMALL, tiny.shape, CPU)))
    measured = list(fit(SMALL, tiny, CPU, new_state(SMALL, tiny.shape, CPU), metric=found))
    assert [report.val_loss for report in measured] == [report.val_loss for report in plain]
    assert [report.metrics for report in measured] == [{"f": float(len(tiny.validation))}] * 2
    assert "metrics" not in plain[0].to_dict()


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("return float('nan')", "f is nan"),
        ("return {'a': 1.0, 'b': float('inf')}", "'b' of f is inf"),
        ("return {}", "f returned an empty dict"),
        ("return 'good'", "f is no number, but of type str"),
        ("return True", "f is no number, but of type bool"),
        ("return images", "f is no number, but of type Tensor"),
        ("x = 0\nreturn 1 / x", "mine.py:5 in f: ZeroDivisionError: division by zero"),
    ],
)
def test_what_cannot_rank_is_refused_before_anything_is_created(metric, body, reason):
    message = refused(lambda: metric(body))
    assert message.startswith("metric mine.py:f fails for an untrained model and two images: ")
    assert reason in message
    assert len(message.splitlines()) == 2


@pytest.mark.parametrize("name", ["val_loss", "epoch", "latent_size", "kl", "best", "a,b", "", "=1"])
def test_a_name_that_is_no_new_column_is_refused(metric, name):
    message = refused(lambda: metric(f"return {{{name!r}: 1.0}}"))
    assert repr(name) in message
    assert message.endswith("Choose another.")


def test_other_names_than_at_first_are_refused_later(metric):
    found = metric("return {'a': 1.0} if len(images) == 2 else {'b': 1.0}")
    with pytest.raises(MetricFailed, match="f returned b, before a"):
        found(build_model(SMALL, SHAPE), torch.ones(3, *SHAPE))


def test_other_code_the_other_direction_and_another_name_are_other_kinds(metric):
    first = metric("return 1.0").kind
    assert metric("return 1.0  # a comment").kind == first
    assert first not in (
        metric("return 2.0").kind,
        metric("return 1.0", maximize=True).kind,
        metric("return {'a': 1.0}").kind,
    )


def test_the_example_of_the_documents_ranks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    (tmp_path / "my_metric.py").write_text(re.search(r"```python\n(.*?)```", page, re.DOTALL)[1])
    found = probe_metric(read_metric("my_metric.py:psnr", maximize=True), SMALL, SHAPE, PAIR)
    assert found.ranking.columns == ("psnr", "worst_psnr")
    values = found(build_model(SMALL, SHAPE), torch.rand(5, *SHAPE))
    assert values["worst_psnr"] < values["psnr"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"metric": "none.py:f"}, "metric must be FILE.py:FUNCTION or MODULE:FUNCTION, but there is no file none.py."),
        ({"metric": "f"}, "metric must be FILE.py:FUNCTION or MODULE:FUNCTION, but got 'f'."),
        ({"metric": "mine.py:g"}, "mine.py has no function 'g'."),
        ({"maximize": True}, "maximize needs --metric: else the validation loss ranks trials, lower is better."),
    ],
)
def test_what_is_no_function_is_refused(metric, given, message):
    metric("return 1.0", probed=False)
    assert message in refused(lambda: read_metric(SearchConfig(**given).metric))
