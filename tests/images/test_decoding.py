"""Pictures of every kind become the colors that a person sees."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from vae_tune.images.decoding import Form, UnreadableError, decode, resize, size_of
from vae_tune.images.prepare import _channels

RED, GREEN, WHITE = (255, 0, 0), (0, 128, 0), (255, 255, 255)


def encoded(picture, kind="PNG", **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def halves(mode, left, right, size=(6, 4)):
    """A picture whose left half has one color and whose right half has another."""
    picture = Image.new(mode, size, left)
    picture.paste(right, (size[0] // 2, 0, *size))
    return picture


def test_a_palette_picture_gives_its_colors_and_not_its_indices():
    picture = halves("RGB", RED, GREEN).convert("P", palette=Image.Palette.ADAPTIVE)
    image = decode(encoded(picture), Form())
    assert (image.shape, tuple(image[0, 0]), tuple(image[0, -1])) == ((4, 6, 3), RED, GREEN)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "TIFF"])
def test_transparent_pixels_get_the_background(kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    picture = halves("RGBA", (*RED, 255), (*GREEN, 0))
    data = encoded(picture, kind, **options)
    assert [tuple(decode(data, Form())[0, x]) for x in (0, -1)] == [RED, WHITE]
    assert tuple(decode(data, Form(background=(1, 2, 3)))[0, -1]) == (1, 2, 3)


def test_half_transparent_pixels_are_mixed_with_the_background():
    image = decode(encoded(Image.new("RGBA", (2, 2), (0, 0, 200, 51))), Form())
    assert tuple(image[0, 0]) == (204, 204, 244)  # 0.2 of the color, 0.8 of white


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_opaque_grey_of_few_bits_stays_as_it_is(bits):
    levels = np.linspace(0, 255, 2**bits).round().astype(np.uint8)
    grey = np.resize(levels, (4, 16))
    picture = Image.fromarray((grey // (255 // (2**bits - 1))).astype(np.uint8))
    picture = picture.point(lambda value: value * 255) if bits == 1 else picture
    data = encoded(picture.convert("1", dither=0)) if bits == 1 else encoded(Image.fromarray(grey), bits=bits)
    assert np.array_equal(decode(data, Form()), grey)


def test_grey_with_alpha_is_put_onto_the_background_and_stays_grey():
    picture = halves("LA", (90, 255), (90, 0))
    assert decode(encoded(picture), Form()).tolist()[0] == [90, 90, 90, 255, 255, 255]


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_grey_of_16_bits_is_scaled_and_not_cut_off(kind):
    values = np.array([[0, 128, 129, 1000, 32768, 60000, 65535]], np.uint16)
    image = decode(encoded(Image.fromarray(values), kind), Form())
    assert image.tolist() == [np.rint(values[0] / 257).astype(int).tolist()]


def test_cmyk_gives_the_colors_that_it_prints():
    image = decode(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "TIFF"), Form())
    assert tuple(image[0, 0]) == RED


def test_grey_in_three_equal_channels_is_grey_and_color_is_not():
    assert decode(encoded(Image.new("RGB", (5, 4), (7, 7, 7))), Form()).shape == (4, 5)
    nearly = Image.new("RGB", (5, 4), (7, 7, 7))
    nearly.putpixel((4, 3), (7, 7, 8))
    assert decode(encoded(nearly), Form()).shape == (4, 5, 3)


@pytest.mark.parametrize(("mode", "key"), [("L", 200), ("RGB", (255, 0, 255))])
def test_a_color_that_a_png_names_as_transparent_gets_the_background(mode, key):
    # torchvision 0.29.2 reads such a file as opaque
    data = encoded(Image.new(mode, (2, 2), key), transparency=key)
    assert decode(data, Form(background=(1, 2, 3)))[0, 0].tolist() == [1, 2, 3]


def png(rows, bits, kind, key):
    """A PNG file one pixel high; ``kind`` is 0 for gray and 2 for RGB, ``key`` is what it names as transparent."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    width = len(rows) * 8 // bits // (3 if kind else 1)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, 1, bits, kind, 0, 0, 0))
    transparent = chunk(b"tRNS", struct.pack(f">{len(key)}H", *key))
    return (
        b"\x89PNG\r\n\x1a\n" + header + transparent + chunk(b"IDAT", zlib.compress(b"\0" + rows)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("rows", "bits", "kind", "key", "expected"),
    [
        (bytes([0b10000000]), 1, 0, [1], [[1, 2, 3], *[[0, 0, 0]] * 7]),
        (bytes([0b11100100]), 2, 0, [2], [[255, 255, 255], [1, 2, 3], [85, 85, 85], [0, 0, 0]]),
        (bytes([0xF3]), 4, 0, [15], [[1, 2, 3], [51, 51, 51]]),
        (struct.pack(">3H", 1000, 1001, 60000), 16, 0, [1000], [[1, 2, 3], [4, 4, 4], [233, 233, 233]]),
        (struct.pack(">6H", 1000, 0, 60000, 1000, 0, 0), 16, 2, [1000, 0, 60000], [[1, 2, 3], [3, 0, 0]]),
    ],
)
def test_what_a_png_names_as_transparent_is_in_its_own_bits(rows, bits, kind, key, expected):
    assert decode(png(rows, bits, kind, key), Form(background=(1, 2, 3))).tolist() == [expected]


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])  # torchvision 0.29.2 leaves WebP as it lies in the file
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_tags_are_applied(orientation, kind):
    upright = np.zeros((6, 10), np.uint8)
    upright[0, 0], upright[0, -1], upright[-1, 0] = 250, 150, 50
    turn = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(Image.fromarray(np.ascontiguousarray(turn)), kind, exif=exif.tobytes(), **options)
    assert np.array_equal(decode(data, Form()), upright)
    assert size_of(data) == (6, 10)


def test_of_an_animation_the_first_frame_counts():
    frames = [Image.new("RGB", (4, 4), color) for color in (RED, GREEN)]
    for kind in ("GIF", "WEBP", "TIFF"):
        options = {"lossless": True} if kind == "WEBP" else {}
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        assert tuple(decode(data, Form())[0, 0]) == RED


def test_crop_keeps_the_middle_pad_keeps_all_and_stretch_keeps_neither():
    wide = Image.new("L", (12, 4), 0)
    wide.paste(200, (4, 0, 8, 4))  # the middle third
    data = encoded(wide)
    assert np.array_equal(decode(data, Form((4, 4), "crop")), np.full((4, 4), 200))
    padded = decode(data, Form((12, 12), "pad", (10, 10, 10)))
    assert padded[0].tolist() == [10] * 12
    assert padded[5].tolist() == [0] * 4 + [200] * 4 + [0] * 4
    assert decode(data, Form((4, 4), "stretch")).mean() == pytest.approx(200 / 3, abs=3)


def test_a_colored_background_pads_a_grey_picture_in_color():
    padded = decode(encoded(Image.new("L", (8, 4), 7)), Form((8, 8), "pad", RED))
    assert (tuple(padded[0, 0]), tuple(padded[4, 4])) == (RED, (7, 7, 7))


def test_shrinking_averages_over_all_pixels():
    lines = np.tile(np.array([0, 255], np.uint8), (64, 32))
    shrunk = decode(encoded(Image.fromarray(lines)), Form((16, 16)))[:, 1:-1]  # the border sees one line more
    assert np.abs(shrunk.astype(int) - 127).max() <= 3


def test_a_picture_that_has_the_size_is_not_resampled():
    noise = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    assert np.array_equal(decode(encoded(Image.fromarray(noise)), Form((9, 7))), noise)


def test_arrays_are_resized_as_files_are():
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    form = Form((8, 8))
    assert np.array_equal(resize(noise, form), decode(encoded(Image.fromarray(noise)), form))


def test_a_large_jpeg_gives_nearly_what_its_full_size_gives():
    ramp = np.add.outer(np.linspace(0, 120, 400), np.linspace(0, 120, 600)).astype(np.uint8)
    data = encoded(Image.fromarray(np.stack([ramp, ramp[::-1], 255 - ramp], 2)), "JPEG", quality=95)
    with Image.open(io.BytesIO(data)) as picture:
        whole = resize(np.asarray(picture), Form((20, 30)))
    assert np.abs(decode(data, Form((20, 30))).astype(int) - whole.astype(int)).max() <= 3


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
def test_a_truncated_file_is_unreadable(kind):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    with pytest.raises(UnreadableError):
        decode(data[: len(data) // 2], Form())


def test_text_is_unreadable_and_so_are_pixels_of_32_bits():
    with pytest.raises(UnreadableError, match="cannot identify"):
        decode(b"no picture", Form())
    with pytest.raises(UnreadableError, match="32 bits"):
        decode(encoded(Image.fromarray(np.zeros((4, 4), np.float32)), "TIFF"), Form())


def test_a_picture_of_more_pixels_than_pillow_trusts_is_unreadable(monkeypatch):
    data = encoded(Image.new("L", (40, 30)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    for read in (lambda: decode(data, Form((8, 8))), lambda: size_of(data)):
        with (
            pytest.raises(UnreadableError, match="40x30 pixels exceed 1,000"),
            pytest.warns(Image.DecompressionBombWarning),
        ):
            read()


def test_color_is_turned_into_grey_as_pillow_does_it():
    noise = np.random.default_rng(0).integers(0, 256, (50, 50, 3), np.uint8)
    assert np.array_equal(_channels(noise, gray=True)[0], np.asarray(Image.fromarray(noise).convert("L")))
