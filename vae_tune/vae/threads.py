"""Set the number of threads that torch uses, and compute results that do not depend on it.

torch divides an operation's elements among its threads, and rounds the few at the end of each part in another way than
the rest: sums over them then differ in the last bit between numbers of threads (seen with torch 2.15).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import torch

from vae_tune.config.machine_limits import usable_cpus

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Let torch use ``count`` threads in the block: with more threads than idle cores it is many times slower."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def limit_threads() -> None:
    """Let torch use no more threads than this process may use CPUs: torch does not know of control groups."""
    torch.set_num_threads(min(torch.get_num_threads(), usable_cpus()))


def on_one_thread_each(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    device: torch.device,
    done: Callable[[], object] = lambda: None,
) -> list[Result]:
    """Return ``function`` of each item, computed on as many threads as torch may use, one thread per item.

    The results do not depend on the number of threads. Settings of the calling thread, such as ``torch.no_grad`` and
    ``torch.autocast``, do not hold in ``function``, which is called from several threads at once; a GPU computes one
    item after the other. ``done`` is called in this thread after each item.
    """
    count = torch.get_num_threads() if device.type == "cpu" else 1
    pool = ThreadPoolExecutor(count, initializer=partial(torch.set_num_threads, 1))
    results = []
    with cpu_threads(1):
        try:
            for result in (map if count == 1 else pool.map)(function, items):
                results.append(result)
                done()
        finally:
            pool.shutdown(cancel_futures=True)
    return results
