"""Pictures of every format, scale and orientation."""

import io
import pathlib
import warnings

import numpy as np
import pytest
from PIL import Image

from ssl_jax.data import inputs
from ssl_jax.data.corpus import open_split
from ssl_jax.data.errors import BadFile, DataError, Unreadable
from ssl_jax.data.readers import pixels

COLOUR = np.random.default_rng(0).integers(0, 256, (12, 16, 3)).astype(np.uint8)
GREY = COLOUR[..., 0]


def packed(image, form, **options):
    out = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(out, form, **options)
    return out.getvalue()


def shown(data):
    return np.asarray(pixels.decode(data))


def grey(values):
    return np.repeat(values[..., None], 3, 2)


@pytest.mark.parametrize("form", pixels.FORMATS)
def test_each_format_that_is_meant(form):
    found = shown(packed(COLOUR, form, **({"lossless": True} if form == "WEBP" else {})))
    if form in ("JPEG", "GIF"):
        assert found.shape == COLOUR.shape
    else:
        np.testing.assert_array_equal(found, COLOUR)


@pytest.mark.parametrize("form", ("EPS", "TGA", "ICO", "JPEG2000"))
def test_other_formats_are_refused_and_no_program_starts(form, monkeypatch):
    monkeypatch.setattr("subprocess.Popen", lambda *args, **options: pytest.fail("a program"))
    monkeypatch.setattr("os.system", lambda *args: pytest.fail("a program"))
    with pytest.raises(Unreadable, match=r"no image format is recognised .* JPEG, PNG, WEBP"):
        pixels.decode(packed(COLOUR, form))


@pytest.mark.parametrize("form", pixels.FORMATS)
@pytest.mark.parametrize("share", (0.5, 0.95))
def test_a_cut_file_is_no_image(form, share):
    data = packed(np.random.default_rng(1).integers(0, 256, (64, 64, 3)).astype(np.uint8), form)
    with pytest.raises(Unreadable, match="cannot be decoded"):
        pixels.decode(data[: int(len(data) * share)])


WIDE = (COLOUR[..., 0].astype(np.uint16) << 8) | COLOUR[..., 1]
ROUNDED = np.rint(WIDE / 257).astype(np.uint8)


@pytest.mark.parametrize("form", ("PNG", "TIFF", "PPM"))
def test_white_of_sixteen_bits_is_65535(form):
    np.testing.assert_array_equal(shown(packed(WIDE, form)), grey(ROUNDED))
    np.testing.assert_array_equal(np.asarray(pixels.from_array(WIDE)), grey(ROUNDED))


def test_a_scale_that_the_format_states():
    ten_bits = b"P5 3 1 1023\n" + np.array([0, 511, 1023], ">u2").tobytes()
    np.testing.assert_array_equal(shown(ten_bits)[0, :, 0], [0, 127, 255])
    inverted = packed(WIDE, "TIFF", tiffinfo={262: 0})
    np.testing.assert_array_equal(shown(inverted), 255 - grey(ROUNDED))


def test_floats_have_white_at_one_or_are_refused():
    share = (GREY / 255).astype(np.float32)
    np.testing.assert_array_equal(shown(packed(share, "TIFF")), grey(GREY))
    np.testing.assert_array_equal(np.asarray(pixels.from_array(COLOUR / 255)), COLOUR)
    for bad in (GREY.astype(np.float32), share - 0.5, np.full((4, 4), np.nan, np.float32)):
        with pytest.raises(Unreadable, match=r"not in 0..1: pass"):
            pixels.decode(packed(bad, "TIFF"))
        with pytest.raises(Unreadable, match=r"not in 0..1: pass"):
            pixels.from_array(bad)


def test_integers_without_a_scale_are_refused():
    with pytest.raises(Unreadable, match="32-bit integer pixels have no defined scale"):
        pixels.decode(packed(GREY.astype(np.int32), "TIFF"))
    with pytest.raises(Unreadable, match="dtype int64 have no defined scale: pass"):
        pixels.from_array(COLOUR.astype(np.int64))


def test_modes_of_eight_bits_or_fewer():
    alpha = np.dstack([COLOUR, GREY])
    cases = [
        (packed(alpha, "PNG"), COLOUR),
        (packed(np.dstack([GREY, GREY[::-1]]), "PNG"), grey(GREY)),
        (packed(GREY > 99, "PNG"), grey(np.where(GREY > 99, 255, 0).astype(np.uint8))),
        (packed(GREY, "PNG", transparency=3), grey(GREY)),
        (alpha, COLOUR),
        (GREY > 99, grey(np.where(GREY > 99, 255, 0).astype(np.uint8))),
        (GREY[..., None], grey(GREY)),
    ]
    for data, expected in cases:
        np.testing.assert_array_equal(shown(data), expected)
    ink = Image.fromarray(255 - COLOUR).convert("CMYK")
    np.testing.assert_array_equal(shown(packed(ink, "TIFF")), np.asarray(ink.convert("RGB")))
    jpeg = shown(packed(ink, "JPEG", quality=100, subsampling=0)).astype(int)
    assert abs(jpeg - np.asarray(ink.convert("RGB"))).mean() < 3  # not its negative


@pytest.mark.parametrize("form", ("JPEG", "PNG", "WEBP", "TIFF"))
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_stand_upright(form, orientation):
    # the top left corner is bright in the displayed image; stored in the camera's orientation
    seen = np.zeros((32, 48, 3), np.uint8)
    seen[:16, :16] = 255
    store = {
        1: seen,
        2: seen[:, ::-1],
        3: seen[::-1, ::-1],
        4: seen[::-1],
        5: seen.transpose(1, 0, 2),
        6: seen.transpose(1, 0, 2)[::-1],
        7: seen[::-1, ::-1].transpose(1, 0, 2),
        8: seen.transpose(1, 0, 2)[:, ::-1],
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(np.ascontiguousarray(store[orientation]))
    found = shown(packed(image, form, exif=exif))
    assert found.shape == seen.shape
    assert abs(found.astype(int) - seen).max() < 40


def test_exif_that_cannot_be_read_leaves_the_picture_as_it_is():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = shown(packed(COLOUR, "PNG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"))
    np.testing.assert_array_equal(found, COLOUR)


def test_arrays_with_channels_first_are_refused():
    with pytest.raises(Unreadable, match=r"channels come first: np.moveaxis\(image, 0, -1\)"):
        pixels.from_array(COLOUR.transpose(2, 0, 1))
    for shape in ((3,), (4, 4, 2), (0, 4, 3), (1, 4, 4, 3)):
        with pytest.raises(Unreadable, match="are not an image: pass"):
            pixels.from_array(np.zeros(shape, np.uint8))


def smooth(width, height):
    x = np.linspace(0, 255, width)[None, :, None] * np.ones((height, 1, 3))
    return np.ascontiguousarray(x.astype(np.uint8))


def test_a_large_jpeg_is_decoded_at_a_part_of_its_size():
    data = packed(smooth(1600, 1200), "JPEG")
    whole, half = pixels.decode(data, 2), pixels.decode(data, 0.5)
    assert whole.size == (1600, 1200) and half.size == (800, 600)
    np.testing.assert_allclose(np.asarray(half), smooth(800, 600), atol=3)
    assert pixels.decode(data, 0.04).size == (200, 150)
    with pytest.raises(Unreadable, match=r"1600 x 1200 pixels, more than .*max_megapixels=0.02"):
        pixels.decode(data, 0.02)


def test_other_large_images_are_refused_before_they_are_decoded(monkeypatch):
    cases = (("PNG", {}), ("BMP", {}), ("JPEG", {"progressive": True}))
    files = [packed(smooth(1600, 1200), form, **options) for form, options in cases]
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    for data in files:
        with pytest.raises(Unreadable, match="scale it down, or allow 2"):
            pixels.decode(data, 1)


def test_blank_pictures_are_bad_rows(tmp_path, image_config):
    one_dot = np.zeros((8, 8, 3), np.uint8)
    one_dot[5, 2] = 1
    for name, image in {"a": np.full((8, 8, 3), 7, np.uint8), "b": one_dot}.items():
        (tmp_path / f"{name}.png").write_bytes(packed(image, "PNG"))
    corpus = open_split(
        image_config({"f": {"kind": "image_folder", "path": str(tmp_path)}}), "train"
    )
    with pytest.raises(BadFile, match=r"a.png, row 1: blank: every pixel is \(7, 7, 7\)"):
        corpus.read(0)
    np.testing.assert_array_equal(np.asarray(corpus.read(1)), one_dot)


def test_the_bound_of_a_config(tmp_path, image_config):
    (tmp_path / "a.png").write_bytes(packed(smooth(1600, 1200), "PNG"))
    source = {"f": {"kind": "image_folder", "path": str(tmp_path)}}
    corpus = open_split(image_config(source, max_megapixels=1), "train")
    with pytest.raises(BadFile, match=r"a.png, row 1: has 1600 x 1200 pixels, more than .*=1"):
        corpus.read(0)
    assert open_split(image_config(source), "train").read(0).size == (1600, 1200)
    for bad in (0, 1000):
        with pytest.raises(DataError, match=r"max_megapixels is .* such as 64, and at most 178"):
            open_split(image_config(source, max_megapixels=bad), "train")


def test_what_is_handed_to_a_model_follows_the_same_rule(tmp_path, image_config):
    config = image_config({})
    file = tmp_path / "a.png"
    file.write_bytes(packed(COLOUR, "PNG"))
    want = inputs.image_row(COLOUR, config)["image"]
    same = [COLOUR / 255, COLOUR.astype(np.uint16) * 257, Image.fromarray(COLOUR), file, str(file)]
    same.append(np.dstack([COLOUR, GREY]))
    for image in same:
        np.testing.assert_array_equal(inputs.image_row(image, config)["image"], want)
    cases = [
        (COLOUR.astype(np.float32), "the image: float pixels from 0 to 255, not in 0..1"),
        (COLOUR.transpose(2, 0, 1), "the image: pixels of shape .* channels come first"),
        (COLOUR.astype(np.int32), "the image: pixels of dtype int32"),
        (pathlib.Path(__file__), "test_pixels.py: no image format is recognised"),
    ]
    for image, text in cases:
        with pytest.raises(ValueError, match=text):
            inputs.image_row(image, config)
