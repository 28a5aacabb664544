"""Write the pictures of Debian's color emoji font into a folder, for a search on real pictures in color.

    python benchmarks/emoji.py FOLDER
    python search.py --dataset FOLDER --image-size 32

The package fonts-noto-color-emoji holds 3,926 PNG files of 136 x 128 pixels in the font's CBDT table. Without
``--font`` the package is downloaded with ``apt-get`` and unpacked into a temporary folder; nothing is installed.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from fontTools.ttLib import TTFont

PACKAGE = "fonts-noto-color-emoji"
FONT = Path("usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")


def pictures(font: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the PNG file of each glyph that has a picture."""
    with TTFont(font) as opened:
        for size in opened["CBDT"].strikeData:
            for name, glyph in size.items():
                yield name, glyph.imageData


def download(folder: Path) -> Path:
    """Download and unpack the package into ``folder``; return the font."""
    subprocess.run(["apt-get", "download", "-o", "APT::Sandbox::User=root", PACKAGE], cwd=folder, check=True)
    (package,) = folder.glob("*.deb")
    subprocess.run(["dpkg-deb", "-x", package, folder], check=True)
    return folder / FONT


def extract(font: Path, folder: Path) -> int:
    """Write the pictures of ``font`` as PNG files into ``folder``; return how many there are."""
    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    for count, (name, content) in enumerate(pictures(font), start=1):  # noqa: B007
        (folder / f"{name}.png").write_bytes(content)
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder to write the pictures into")
    parser.add_argument("--font", type=Path, help="font file; default: that of Debian's package, downloaded")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        count = extract(options.font or download(Path(temporary)), options.folder)
    print(f"{count:,} pictures in {options.folder}")


if __name__ == "__main__":
    main()
