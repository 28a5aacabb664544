#!/usr/bin/env bash
# Pillow 13.0.0: the transparent value of a PNG of 2 or 4 bits a pixel makes nothing transparent.
#
# A gray PNG can name one value as transparent (its tRNS chunk), in the range of the file's own bit depth: 0 to 15 for 4
# bits. Pillow scales the pixels to 0..255 as it decodes, and keeps the named value unscaled in info["transparency"]. So
# convert("RGBA") compares 255 with 15 and leaves the pixel opaque; and where a scaled pixel happens to equal the value, as
# 0 does, it is right by accident. Files of 1 and 8 bits are right. has_transparency_data is True for all of them.
#
# Why this is surprising: convert("RGBA") is the documented way to apply such a value, and optimizers (optipng, oxipng)
# reduce gray pictures to 2 or 4 bits without a word. Remedy: multiply the value by 255 / (2**bits - 1) first.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check pillow==13.0.0
"$place/venv/bin/python" - >"$place/output" <<'PYTHON'
import io
import struct
import zlib

from PIL import Image


def png(bits):
    """Two gray pixels, white and black, of which white is named as transparent."""
    white = 2**bits - 1
    row = (white << (2 * bits) - bits).to_bytes(2, "big") if bits == 8 else bytes([white << 8 - bits])
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", 2, 1, bits, 0, 0, 0, 0)),
        (b"tRNS", struct.pack(">H", white)),
        (b"IDAT", zlib.compress(b"\0" + row)),
        (b"IEND", b""),
    )
    parts = (struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


for bits in (1, 2, 4, 8):
    picture = Image.open(io.BytesIO(png(bits)))
    named = picture.has_transparency_data
    white, black = (picture.convert("RGBA").getpixel((x, 0))[3] for x in (0, 1))
    print(f"{bits} bits: names a transparent value: {named}; alpha of the white pixel {white}, of the black one {black}")
PYTHON
cat "$place/output"
diff "$place/output" - <<'EXPECTED'
1 bits: names a transparent value: True; alpha of the white pixel 0, of the black one 255
2 bits: names a transparent value: True; alpha of the white pixel 255, of the black one 255
4 bits: names a transparent value: True; alpha of the white pixel 255, of the black one 255
8 bits: names a transparent value: True; alpha of the white pixel 0, of the black one 255
EXPECTED
echo "As described: Pillow 13.0.0 compares the unscaled value."
