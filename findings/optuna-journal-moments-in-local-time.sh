#!/usr/bin/env bash
# Optuna 5.0.0: a journal's UTC timestamps are read as naive local times, so a trial can end before it starts.
#
# JournalStorage writes "2026-10-25T01:00:17+00:00": UTC, with its offset. On reading, optuna/storages/journal/_storage.py
# converts it to a naive datetime in the time zone of the reading process. In the hour that repeats at the end of summer
# time, two timestamps an hour apart become the same local time, and neither `tzinfo` nor `fold` distinguishes them. So with
# TZ=Europe/Berlin, a trial from 00:59:00Z to 01:00:17Z has a duration of -1 day, 23:01:17, and `.astimezone(UTC)`, the
# usual conversion back, returns an end at 00:00:17Z.
#
# Why this is surprising: the offset in the file suggests that reading returns the timestamp that was written.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check optuna==5.0.0
cat >"$place/read.py" <<'PYTHON'
import json
import sys
from datetime import UTC

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

optuna.logging.set_verbosity(optuna.logging.ERROR)
path = sys.argv[1]


def load():
    return optuna.create_study(storage=JournalStorage(JournalFileBackend(path)), study_name="s", load_if_exists=True)


study = load()
study.tell(study.ask(), 1.0)
lines = [json.loads(line) for line in open(path)]
assert [line["datetime_start"][-6:] for line in lines if "datetime_start" in line] == ["+00:00"]
for line in lines:
    for name, moment in (("datetime_start", "00:59:00"), ("datetime_complete", "01:00:17")):
        if name in line:
            line[name] = f"2026-10-25T{moment}+00:00"
open(path, "w").writelines(json.dumps(line) + "\n" for line in lines)
(trial,) = load().trials
print(trial.datetime_start, "|", trial.datetime_complete, "|", trial.duration, "|", trial.datetime_complete.tzinfo, "|",
      trial.datetime_complete.astimezone(UTC).isoformat())
PYTHON
for zone in UTC Europe/Berlin; do
    TZ=$zone "$place/venv/bin/python" "$place/read.py" "$place/$(basename $zone).log" | tee "$place/$(basename $zone).txt"
done
diff "$place/UTC.txt" - <<'EXPECTED'
2026-10-25 00:59:00 | 2026-10-25 01:00:17 | 0:01:17 | None | 2026-10-25T01:00:17+00:00
EXPECTED
diff "$place/Berlin.txt" - <<'EXPECTED'
2026-10-25 02:59:00 | 2026-10-25 02:00:17 | -1 day, 23:01:17 | None | 2026-10-25T00:00:17+00:00
EXPECTED
echo "As described: Optuna 5.0.0 loses an hour at the end of summer time."
