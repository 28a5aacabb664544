#!/usr/bin/env bash
# Optuna 5.0.0: a journal that ends with a blank line can be read until the next write, and never again after it.
#
# Network file systems and careless appends leave blank lines. JournalFileBackend tolerates a last line that is not JSON,
# because another process may still be writing it. So a study whose journal ends with "\n\n" loads. `study.ask()` then
# appends a line after the blank one, which is no longer the last: the same call raises JSONDecodeError, and so does every
# later load. The study is unreadable until someone removes the line by hand. Optuna rejects a blank line elsewhere at once.
#
# Why this is surprising: JSON-lines readers skip blank lines, and a journal that loads and accepts a write should load again.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check optuna==5.0.0
"$place/venv/bin/python" - "$place/journal" >"$place/output" <<'PYTHON'
import json
import sys

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

optuna.logging.set_verbosity(optuna.logging.ERROR)
path = sys.argv[1]


def attempt(name, action):
    try:
        print(f"{name}: {action()} trials")
    except json.JSONDecodeError:
        print(f"{name}: JSONDecodeError")


def load():
    return optuna.load_study(study_name="s", storage=JournalStorage(JournalFileBackend(path)))


def read():
    return len(load().trials)


def add():
    study = load()
    study.tell(study.ask(), 1.0)
    return len(study.trials)


optuna.create_study(study_name="s", storage=JournalStorage(JournalFileBackend(path)))
add()
lines = open(path).read()
open(path, "w").write(lines + "\n")
attempt("blank line at the end, read", read)
attempt("blank line at the end, one trial more", add)
attempt("the same journal, read again", read)
open(path, "w").write("\n" + lines)
attempt("blank line at the start, read", read)
PYTHON
cat "$place/output"
diff "$place/output" - <<'EXPECTED'
blank line at the end, read: 1 trials
blank line at the end, one trial more: JSONDecodeError
the same journal, read again: JSONDecodeError
blank line at the start, read: JSONDecodeError
EXPECTED
echo "As described: Optuna 5.0.0 loses a journal to a blank line at its end."
