#!/usr/bin/env bash
# torch 2.15.0 on an x86-64 CPU: an elementwise function returns different bits with a different number of threads.
#
# torch splits an elementwise operation of more than 32,768 elements among its threads. It computes each part in vectors,
# and the few elements left at the end of a part one by one, with code that rounds differently. With a different number
# of threads, different elements are at the end of a part. So `torch.sigmoid(x)` and `softplus(x)` of the same float32
# tensor differ in a few elements, by one unit in the last place, between 1 and 3 threads.
#
# Why this is surprising: sums are known to depend on how they are split, but an elementwise function has nothing to split.
# A per-image loss, whose sums never cross an image, is affected too. The processor's vectors determine which functions and
# numbers of threads differ, so this script tries all of them and checks that some differ.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 numpy==2.4.6
"$place/venv/bin/python" - <<'PYTHON'
import torch
from torch.nn import functional as F

assert torch.__version__.startswith("2.15.0")
generator = torch.Generator().manual_seed(0)
x = torch.randn(97, 784, generator=generator) * 3
found = False
for name, function in (("sigmoid", torch.sigmoid), ("softplus", F.softplus), ("exp", torch.exp)):
    results = []
    for threads in (1, 2, 3, 4, 7):
        torch.set_num_threads(threads)
        results.append(function(x))
    torch.set_num_threads(1)
    assert torch.equal(function(x), results[0])  # the same number of threads gives the same bits
    different = [int((result != results[0]).sum()) for result in results]
    largest = max(float((result - results[0]).abs().div(results[0]).max()) for result in results)
    print(f"{name}: elements of {x.numel()} that differ from one thread, with 1, 2, 3, 4, 7 threads: {different}; "
          f"relative difference at most {largest:.1e}")
    assert largest < 1e-6
    found = found or any(different)
assert found, "no function depends on the number of threads any more (or on this processor)"
PYTHON
echo "As described: elementwise functions of torch 2.15.0 depend on the number of threads."
