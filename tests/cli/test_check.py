"""`vae-tune check` finds what Ray's schema lets pass, and nothing wrong with what is shipped."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path

import pytest
import yaml

from tests.clusters import BROKEN
from vae_tune.cli.check import CheckOptions, clouds, command
from vae_tune.cli.check import run as check
from vae_tune.cli.check.command import check_document, reachable
from vae_tune.cli.check.document import read_document
from vae_tune.config.errors import UsageError

ROOT = Path(__file__).parents[2]
SHIPPED = ["cluster.yaml", "cluster/gcp.yaml", "cluster/kuberay.yaml", "cluster/local.yaml"]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A home with a token and a key, as somebody has who is about to run `ray up`."""
    for name in (".ray/auth_token", ".ssh/id_ed25519"):
        path = tmp_path / "home" / name
        path.parent.mkdir(parents=True)
        path.write_text("0123456789abcdef")
        path.chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(ROOT)
    return tmp_path / "home"


def problems(tmp_path, name="cluster.yaml", old="", new="", results_dir=None):
    """Check a shipped file in which ``old`` became ``new``."""
    text = (ROOT / name).read_text()
    assert old in text
    path = tmp_path / "changed.yaml"
    path.write_text(text.replace(old, new, 1))
    return check_document(read_document(path), results_dir)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_file_is_clean(name):
    assert check_document(read_document(Path(name)), "s3://bucket/vae") == []


@pytest.mark.parametrize("case", sorted(BROKEN))
def test_a_broken_file_is_found_out_on_its_line(case, tmp_path):
    name, old, new, words, *on = BROKEN[case]
    told = [
        problem for problem in problems(tmp_path, name, old, new) if re.search(words, problem.what + problem.advice)
    ]
    assert told
    lines = (tmp_path / "changed.yaml").read_text().splitlines()
    expected = on[0] if on else new.strip().splitlines()[0].strip()
    assert any(expected in lines[int(problem.where.rpartition(":")[2]) - 1] for problem in told)


def test_a_problem_is_one_line_of_where_what_and_what_to_do(tmp_path, capsys):
    problems(tmp_path, old="region: us", new="regio: us")
    assert check(CheckOptions(file=tmp_path / "changed.yaml", offline=True)) == 1
    line = capsys.readouterr().out.splitlines()[1]
    where, what = f"{tmp_path}/changed.yaml:11: error:", "The provider aws has no key 'regio'; Ray ignores it."
    assert line == f"{where} {what} Did you mean 'region'?"


def test_a_clean_file_ends_with_0(capsys):
    assert check(CheckOptions(file=Path("cluster.yaml"), offline=True)) == 0
    assert capsys.readouterr().out == "no errors, no warnings.\n"


def test_warnings_alone_end_with_0(tmp_path, capsys):
    problems(tmp_path, old="minutes: 5", new="minutes: 600")
    assert check(CheckOptions(file=tmp_path / "changed.yaml", offline=True)) == 0
    assert "for 600 minutes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read"),
        ("a: [1", "not valid YAML"),
        ("- a\n- b\n", "holds no mapping"),
        ("", "holds no mapping"),
        ("a: &x {b: *x}", "alias of itself"),
        ("a: 1\n---\nb: 2\n", "not valid YAML"),
        (b"\xff\xfe\x00", "no text"),
    ],
)
def test_what_is_no_yaml_is_refused(content, words, tmp_path):
    path = tmp_path / "file.yaml"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UsageError, match=words):
        check(CheckOptions(file=path, offline=True))


@pytest.mark.parametrize(
    "content",
    [
        "a: 1",
        "provider: 3",
        "provider: {type: aws}\navailable_node_types: [1]",
        "provider: {type: [1]}",
        "kind: {a: b}",
    ],
)
def test_whatever_the_yaml_holds_it_is_judged(content, tmp_path):
    path = tmp_path / "file.yaml"
    path.write_text(content)
    assert any(problem.level == "error" for problem in check_document(read_document(path)))


def test_results_on_one_machines_disk_are_an_error_on_a_cluster(tmp_path):
    (problem,) = problems(tmp_path, results_dir="results")
    assert problem.level == "error"
    assert "goes with" in problem.what or "go with" in problem.what


@pytest.mark.parametrize(
    ("name", "words"), [(".ray/auth_token", "may read the token"), (".ssh/id_ed25519", "ssh refuses")]
)
def test_what_others_may_read_is_no_secret(name, words, home, tmp_path):
    (home / name).chmod(0o644)
    (problem,) = problems(tmp_path, "cluster/local.yaml")
    assert words in problem.what


def test_the_token_is_made_where_it_is_missing_and_readable_by_its_owner_alone(home, capsys):
    path = home / ".ray/auth_token"
    path.unlink()
    options = CheckOptions(file=Path("cluster.yaml"), offline=True, make_token=True)
    assert check(options) == 0
    assert path.stat().st_mode & 0o777 == 0o600
    token = path.read_text()
    assert len(token) == 64
    assert check(options) == 0
    assert path.read_text() == token
    assert token not in capsys.readouterr().out


def test_without_botocore_node_config_is_not_checked_which_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(clouds, "_run_instances", lambda: None)
    (problem,) = problems(tmp_path)
    assert problem.level == "warning"
    assert "vae-tune[cluster]" in problem.advice


def test_a_host_that_does_not_answer_is_named(tmp_path, monkeypatch):
    path = tmp_path / "local.yaml"
    path.write_text("provider: {type: local, head_ip: 127.0.0.1, worker_ips: []}")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, so that nobody else listens there
        monkeypatch.setattr(command, "_SSH_PORT", closed.getsockname()[1])
        (problem,) = reachable(read_document(path))
        assert "127.0.0.1 does not answer" in problem.what
        closed.listen()
        assert list(reachable(read_document(path))) == []


def test_aws_without_credentials_is_found_where_the_network_may_be_used(monkeypatch, home):
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    (problem,) = reachable(read_document(Path("cluster.yaml")))
    assert "No AWS credentials" in problem.what
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    assert list(reachable(read_document(Path("cluster.yaml")))) == []


def test_offline_and_a_cluster_contradict_each_other():
    with pytest.raises(UsageError, match="contradict"):
        CheckOptions(offline=True, address="auto")


def test_the_variants_set_the_nodes_up_as_the_cluster_does():
    files = {name: yaml.safe_load((ROOT / name).read_text()) for name in SHIPPED if name != "cluster/kuberay.yaml"}
    base = files.pop("cluster.yaml")
    for file in files.values():
        assert file["file_mounts"] == base["file_mounts"]
        assert file["worker_start_ray_commands"] == base["worker_start_ray_commands"]


def test_every_pinned_version_is_that_of_the_constraints():
    constraints = dict(re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    pins = [
        pin
        for name in [*SHIPPED, "cluster/Dockerfile"]
        for pin in re.findall(r"\bray(?:\[default\]==|Version: |:|-)([0-9.]+)", (ROOT / name).read_text())
    ]
    assert len(pins) >= 8
    assert set(pins) == {constraints["ray"]}
