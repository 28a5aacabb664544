import pytest
from optuna.distributions import IntDistribution

from tests.studies import make_study
from vae_tune.analysis.study import load_study
from vae_tune.config.errors import UsageError
from vae_tune.config.names import TRIAL, VALUES
from vae_tune.config.settings import SearchConfig, TrialConfig
from vae_tune.config.space import DEFAULT_SPACE, Space
from vae_tune.record.metadata import new_metadata
from vae_tune.record.study_record import StudyRecord
from vae_tune.search.initial_trials import InitialTrials, read_points
from vae_tune.search.searcher import StudySearcher
from vae_tune.search.stopping import Stopping

BASE = TrialConfig()
CONFIG = SearchConfig()
CONV = Space(
    {
        "latent_size": IntDistribution(2, 64, log=True),
        "model.channels": IntDistribution(1, 64, log=True),
        "model.residual_blocks": IntDistribution(0, 2),
    }
)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.yaml", "- {latent_size: 32, learning_rate: 2e-3}\n- {hidden_width: 512}\n"),
        ("p.csv", "latent_size,learning_rate\n32,2e-3\n"),
        ("p.csv", "latent_size,hidden_width,learning_rate\n32,,2e-3\n"),
        ("p.csv", "latent_size,learning_rate,hidden_width\n32,2e-3\n"),
        ("p.csv", "latent_size,hidden_width,learning_rate\n32.0, ,0.002\n"),  # whole numbers, once one was missing
        ("p.csv", ",latent_size,learning_rate\n0,32.0,0.002\n"),  # with the index, as pandas writes it
        ("p.csv", "trial,latent_size,learning_rate\n4,3.2e1,0.002\n"),  # a study's own
        ("p.yaml", "- {latent_size: 32.0, hidden_width: , learning_rate: 2e-3}\n"),
        ("p.csv", "latent_size,hidden_width,learning_rate\n32,NaN,2e-3\n"),
        ("p.csv", "latent_size,hidden_width,learning_rate\nNA,nan,<NA>\n32,NA,2e-3\n"),
        ("p.csv", " latent_size , learning_rate\n32,0.002, ,\n"),
        ("POINTS.CSV", "latent_size,learning_rate\n32,0.002\n"),
        ("p.yaml", "- {latent_size: 32, hidden_width: .nan, learning_rate: 2e-3}\n"),
        ("p.csv", "\ufefflatent_size,learning_rate\n32,2e-3\n"),  # as a spreadsheet writes it
    ],
)
def test_points_come_from_yaml_or_csv(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    points = read_points(tmp_path / name, DEFAULT_SPACE, BASE)
    assert points[0] == {"latent_size": 32, "learning_rate": 0.002}


def test_the_best_trials_of_a_study_can_be_tried_first_as_pandas_writes_them(tmp_path):
    study = load_study(make_study(tmp_path / "s", trials=6))
    names = list(study.space.distributions)
    best = study.trials.nsmallest(3, "val_loss")[names]
    best.to_csv(tmp_path / "best.csv")
    best.reindex([*best.index, -1]).to_csv(tmp_path / "with_a_blank.csv", index=False)
    points = best.to_dict("records")
    assert read_points(tmp_path / "best.csv", study.space, BASE) == points
    best["latent_size"] = best["latent_size"].astype(float)
    best.to_csv(tmp_path / "floats.csv", index=False)
    assert read_points(tmp_path / "floats.csv", study.space, BASE) == points
    assert read_points(tmp_path / "with_a_blank.csv", study.space, BASE) == points  # its last row is blank


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("latent_size\n20.5\n", "point 1: latent_size: must be a whole number, but got '20.5'"),
        ("latent_size\ninf\n", "point 1: latent_size: must be a whole number, but got 'inf'"),
        ("latent_size,latent_size\n20,30\n", "cannot be read: its column 'latent_size' is there twice."),
        ("latent_size\n20\n30,40\n", "cannot be read: its line 3 has 2 cells, but its first 1."),
        ("learning_rate\nfast\n", "point 1: learning_rate: must be a number, but got 'fast'"),
    ],
)
def test_a_cell_that_is_no_such_number_is_named(tmp_path, text, message):
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(UsageError, match=message):
        read_points(tmp_path / "p.csv", DEFAULT_SPACE, BASE)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\n", "points are a list of mappings"),
        ("- 3\n", "points are a list of mappings"),
        ("- {latent_size: 1000}\n", r"point 1: latent_size 1000 lies outside of the search space \(2 to 64\)"),
        ("- {latent_size: 3, latent_size: 4}\n", "point 1 cannot be read: its key 'latent_size' is there twice"),
        ("- {latent_size: 3}\n- {batch_size: 64}\n", "point 2: 'batch_size' is not searched"),
        ("- {latent_sizes: 4}\n", "'latent_sizes' is not searched; .* Did you mean latent_size?"),
        ("- {latent_size: ''}\n", "point 1: latent_size"),
        ("- {latent_size: many}\n", "point 1: latent_size"),
        ("- {learning_rate: -1}\n", "point 1: learning_rate: must be > 0"),
        ("- {\n", r"points.yaml:2: not valid YAML: "),
        ("- {latent_size: 2020-13-45}\n", "cannot be read"),
        ("[]\n", "holds no points"),
    ],
)
def test_a_bad_point_is_named(tmp_path, text, message):
    path = tmp_path / "points.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message) as error:
        read_points(path, DEFAULT_SPACE, BASE)
    assert len(str(error.value).splitlines()) <= 2


@pytest.mark.parametrize("value", ["[2]", "{a: 1}", "2020-01-01", "true", "1.5", "[null]", ".inf"])
@pytest.mark.parametrize("name", ["model.channels", "model.residual_blocks", "latent_size"])
def test_what_is_no_number_is_refused_of_options_of_models_too(tmp_path, name, value):
    path = tmp_path / "points.yaml"
    path.write_text(f"- {{{name}: {value}}}\n")
    with pytest.raises(UsageError, match=f"point 1: {name}: must be a whole number, but got "):
        read_points(path, CONV, TrialConfig(model="conv"))


def test_an_option_of_a_model_that_is_null_is_proposed_and_a_whole_float_is_a_whole_number(tmp_path):
    (tmp_path / "p.yaml").write_text("- {model.channels: null, model.residual_blocks: 1.0}\n")
    (point,) = read_points(tmp_path / "p.yaml", CONV, TrialConfig(model="conv"))
    assert point == {"model.residual_blocks": 1}
    assert type(point["model.residual_blocks"]) is int


def study(folder, tiny, prior=None, config=CONFIG, space=DEFAULT_SPACE):
    prior = prior or InitialTrials()
    metadata = new_metadata(folder.name, config, config.trial, space, tiny)
    return StudyRecord.create(folder, metadata, lambda s: prior.enqueue(s, space, config.trial))


def searcher_of(record):
    return StudySearcher(record, DEFAULT_SPACE, BASE, "random", Stopping())


def test_points_are_tried_right_after_the_reference(tmp_path, tiny):
    point = {"latent_size": 33, "hidden_width": 100, "learning_rate": 0.002}
    record = study(tmp_path / "s", tiny, InitialTrials(points=[point, {"latent_size": 7}]))
    searcher = searcher_of(record)
    assert searcher.suggest("a")[VALUES]["latent_size"] == 20
    record.close()
    again = StudyRecord.resume(record.folder, record.metadata)
    searcher = searcher_of(again)
    assert searcher.suggest("a")[TRIAL] == 0
    assert searcher.suggest("b")[VALUES] == point
    assert searcher.suggest("c")[VALUES]["latent_size"] == 7
    again.close()
