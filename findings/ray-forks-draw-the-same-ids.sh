#!/usr/bin/env bash
# Ray 2.60.0: after `@ray.remote class ...` in a process that has not started Ray, all its forks draw the same "random" IDs.
#
# Ray draws an ID for each class of actors when it is decorated, from a generator that is seeded once per thread, at its
# first use. A fork inherits its state. So processes that are forked after such a class was defined draw equal IDs of
# nodes, tasks and objects, one after the other. Without the class, each fork seeds its own generator, and they differ.
#
# Why this is surprising: `import ray` and decorating a class start nothing and connect to nothing, and the generators that
# Python programs use for IDs (random, uuid, secrets) give each fork numbers of its own. `import ray.data` or
# `import ray.train` defines such classes too. In a cluster, two workers that were forked from one process put objects
# under one ID.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check 'ray==2.60.0'
cd "$place"
"$place/venv/bin/python" - <<'PYTHON'
import os
import random
import uuid

import ray


def drawn_in_a_fork(draw):
    """Return what a fork of this process draws."""
    end, start = os.pipe()
    if os.fork() == 0:
        os.write(start, str(draw()).encode())
        os._exit(0)
    os.wait()
    return os.read(end, 1000).decode()


def draws():
    """Return how many different numbers three forks draw, by generator."""
    ways = {"ray": lambda: ray.NodeID.from_random().hex(), "random": random.random, "uuid": uuid.uuid4}
    return {name: len({drawn_in_a_fork(draw) for _ in range(3)}) for name, draw in ways.items()}


before = draws()


@ray.remote
class Actor:
    """Never started."""


after = draws()
print(f"ray {ray.__version__}: different numbers in three forks: {before}, after a class of actors was defined: {after}")
assert before == {"ray": 3, "random": 3, "uuid": 3}
assert after == {"ray": 1, "random": 3, "uuid": 3}
PYTHON
