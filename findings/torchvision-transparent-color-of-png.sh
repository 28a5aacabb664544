#!/usr/bin/env bash
# torchvision 0.29.2: decode_image(mode="RGB_ALPHA") says that a PNG with a transparent color is opaque.
#
# A PNG without an alpha channel can name one grey level or one color as transparent (its tRNS chunk; PNG specification,
# section 11.3.1). Pillow 13.0.0 gives such pixels alpha 0 when it converts to RGBA. torchvision reads the same file with
# alpha 255 everywhere, for grey and for color, without a warning.
#
# Why this is surprising: the mode is asked for because transparency matters, and libpng has a call that expands the chunk.
# Whoever composes onto a background keeps the key color (often magenta or black) as a frame around each picture, and a
# model learns it. Remedy: decode such files with Pillow, convert("RGBA").
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 torchvision==0.29.2 pillow==13.0.0 numpy==2.4.6
"$place/venv/bin/python" - >"$place/output" <<'PYTHON'
import io

import torch
from PIL import Image
from torchvision.io import decode_image

for mode, key in (("L", 200), ("RGB", (255, 0, 255))):
    file = io.BytesIO()
    Image.new(mode, (4, 4), key).save(file, "PNG", transparency=key)
    content = torch.frombuffer(bytearray(file.getvalue()), dtype=torch.uint8)
    alpha = Image.open(file).convert("RGBA").getpixel((0, 0))[3]
    decoded = decode_image(content, mode="RGB_ALPHA")
    print(f"{mode}: alpha is {alpha} by Pillow, {decoded[3, 0, 0].item()} by torchvision")
PYTHON
cat "$place/output"
diff "$place/output" - <<'EXPECTED'
L: alpha is 0 by Pillow, 255 by torchvision
RGB: alpha is 0 by Pillow, 255 by torchvision
EXPECTED
echo "As described: torchvision 0.29.2 ignores the transparent color of a PNG."
