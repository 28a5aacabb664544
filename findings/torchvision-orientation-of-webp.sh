#!/usr/bin/env bash
# torchvision 0.29.2: decode_image(apply_exif_orientation=True) turns JPEG and PNG, and leaves WebP as it lies in the file.
#
# The same picture with the same EXIF tag (orientation 6: a quarter turn) is saved as JPEG, PNG and lossless WebP. The first
# two come out turned, 16 x 8; the WebP comes out 8 x 16, without a warning. Pillow 13.0.0 reads the tag in all three.
#
# Why this is surprising: the option belongs to the function that takes every format, and WebP carries EXIF as the others
# do. A folder of phone pictures of both kinds is then half upright and half on its side. Remedy: decode with Pillow and
# ImageOps.exif_transpose, or turn WebP by the tag oneself.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 torchvision==0.29.2 pillow==13.0.0 numpy==2.4.6
"$place/venv/bin/python" - >"$place/output" <<'PYTHON'
import io

import numpy as np
import torch
from PIL import Image, ImageOps
from torchvision.io import decode_image

pixels = np.zeros((8, 16, 3), np.uint8)
pixels[:, :8] = 255
tag = Image.Exif()
tag[0x0112] = 6
for kind, options in (("JPEG", {}), ("PNG", {}), ("WEBP", {"lossless": True})):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, exif=tag.tobytes(), **options)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(file)))
    content = torch.frombuffer(bytearray(file.getvalue()), dtype=torch.uint8)
    decoded = decode_image(content, mode="RGB", apply_exif_orientation=True)
    print(f"{kind}: Pillow {upright.shape[:2]}, torchvision {tuple(decoded.shape[1:])}")
PYTHON
cat "$place/output"
diff "$place/output" - <<'EXPECTED'
JPEG: Pillow (16, 8), torchvision (16, 8)
PNG: Pillow (16, 8), torchvision (16, 8)
WEBP: Pillow (16, 8), torchvision (8, 16)
EXPECTED
echo "As described: torchvision 0.29.2 leaves WebP as it lies in the file."
