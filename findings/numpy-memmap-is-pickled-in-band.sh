#!/usr/bin/env bash
# numpy 2.4.6: a memory-mapped array is pickled with all its bytes in the stream, where a plain array gives one buffer.
#
# Pickle protocol 5 lets arrays hand their memory over out of band (PEP 574). Ray, Dask and multiprocessing's shared memory
# rely on it: readers map the buffer and copy nothing. numpy.ndarray does so, contiguous or Fortran-ordered. numpy.memmap, as
# np.load(..., mmap_mode="r") returns it, does not: buffer_callback is never called and the stream holds every byte. So a
# data set that was mapped in order to save memory is copied once per process that receives it. np.asarray() of the same
# array, which copies nothing, is handed over out of band.
#
# Why this is surprising: memmap is a subclass of ndarray, its memory is contiguous, and it exists to avoid copies.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6
"$place/venv/bin/python" - "$place/images.npy" >"$place/output" <<'PYTHON'
import pickle
import sys

import numpy as np

np.save(sys.argv[1], np.zeros((1000, 28, 28), np.uint8))
mapped = np.load(sys.argv[1], mmap_mode="r")
plain = np.asarray(mapped)
print("the same memory:", np.shares_memory(mapped, plain))
for name, array in (("memmap", mapped), ("asarray(memmap)", plain)):
    buffers = []
    stream = pickle.dumps(array, protocol=5, buffer_callback=buffers.append)
    print(f"{name}: {len(buffers)} buffers, the stream has all {array.nbytes} bytes: {len(stream) > array.nbytes}")
PYTHON
cat "$place/output"
diff "$place/output" - <<'EXPECTED'
the same memory: True
memmap: 0 buffers, the stream has all 784000 bytes: True
asarray(memmap): 1 buffers, the stream has all 784000 bytes: False
EXPECTED
echo "As described: numpy 2.4.6 pickles a memmap in band."
