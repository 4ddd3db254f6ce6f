import math

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from ssl_jax.data import hashing, rand_augment, transforms
from ssl_jax.data.errors import DataError, Unreadable
from ssl_jax.data.hashing import Draws

BICUBIC = Image.Resampling.BICUBIC


def picture(width=40, height=30, seed=0):
    low = np.random.default_rng(seed).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    return Image.fromarray(low).resize((width, height), BICUBIC)


class Scripted(Draws):
    """Returns the listed numbers in [0, 1) in place of random ones."""

    def __init__(self, *numbers):
        self.numbers = list(numbers)

    def bits(self):
        return int(self.numbers.pop(0) * 2**64)


def pixels(image):
    return np.asarray(image).astype(int)


def same(image, expected):
    np.testing.assert_array_equal(np.asarray(image), np.asarray(expected))


def test_draws_are_uniform_and_a_function_of_key_and_stream():
    draws = Draws(7, 3)
    numbers = [draws.uniform() for _ in range(4000)]
    again = Draws(7, 3)
    assert numbers[:9] == [again.uniform() for _ in range(9)]
    assert numbers[0] not in (Draws(7, 2).uniform(), Draws(8, 3).uniform())
    assert abs(np.mean(numbers) - 0.5) < 0.02 and abs(np.var(numbers) - 1 / 12) < 0.005
    assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.05
    counts = np.bincount([draws.below(5) for _ in range(5000)], minlength=5)
    assert counts.min() > 900 and len(counts) == 5
    normal = [draws.normal() for _ in range(4000)]
    assert abs(np.mean(normal)) < 0.06 and abs(np.std(normal) - 1) < 0.05
    orders = {tuple(draws.order(3)) for _ in range(100)}
    assert len(orders) == 6
    many = hashing.normal(20001, 5)
    assert len(many) == 20001 and abs(many.mean()) < 0.03 and abs(many.std() - 1) < 0.03


def test_random_resized_crop_takes_the_stated_box():
    image = picture()
    # area 40 * 30 * (0.25 + 0.5 * 0.5) = 600, aspect 1: 24 x 24 (rounded), top 0.5 of 7, left 0.9
    draws = Scripted(0.5, 0.5, 0.5, 0.9)
    out = transforms.random_resized_crop(image, draws, 16, scale=(0.25, 0.75))
    left, top = int(0.9 * (40 - 24 + 1)), int(0.5 * (30 - 24 + 1))
    same(out, image.crop((left, top, left + 24, top + 24)).resize((16, 16), BICUBIC))


def boxes(width, height, count=2000, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3), clamp=False):
    found = [
        transforms._crop_box(width, height, Draws(i), scale, ratio, clamp) for i in range(count)
    ]
    left, top, right, bottom = np.array(found).T
    assert left.min() >= 0 and top.min() >= 0 and right.max() <= width and bottom.max() <= height
    return left, top, right - left, bottom - top


def reference_boxes(width, height, count, seed=0):
    """The rule of torchvision, reimplemented with numpy's generator -> areas, aspects."""
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(count):
        for _ in range(10):
            area = width * height * rng.uniform(0.08, 1.0)
            aspect = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                break
        else:
            w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
        out.append((w * h / (width * height), w / h))
    return np.array(out).T


@pytest.mark.parametrize("size", [(64, 64), (100, 60)])
def test_random_resized_crop_draws_as_torchvision(size):
    _, _, w, h = boxes(*size)
    area, aspect = reference_boxes(*size, 2000)
    for ours, theirs in ((w * h / math.prod(size), area), (w / h, aspect)):
        for q in (0.05, 0.25, 0.5, 0.75, 0.95):
            assert np.quantile(ours, q) == pytest.approx(np.quantile(theirs, q), abs=0.04)


def test_a_crop_that_never_fits_is_the_middle():
    left, top, w, h = boxes(100, 10, 50)
    # ten tries with these aspects fail nearly always
    fallback = (w == 13) & (h == 10)
    assert fallback.mean() > 0.5
    assert set(left[fallback & (left == 43)]) == {43} and set(top[fallback]) == {0}
    _, top, w, h = boxes(10, 100, 50)
    assert ((w == 10) & (h == 13) & (top == 43)).mean() > 0.5


def test_the_clamped_crop_needs_one_try():
    draws = Scripted(0.999, 0.999, 0.0, 0.0)
    box = transforms._crop_box(40, 30, draws, (0.08, 1.0), (3 / 4, 4 / 3), True)
    assert box == (0, 0, 40, 30) and not draws.numbers
    _, _, w, h = boxes(100, 60, clamp=True)
    assert (h == 60).mean() > 0.1  # those that torchvision would have redrawn
    assert (w * h).mean() / 6000 == pytest.approx(0.51, abs=0.03)


def test_random_crop_pads_with_black():
    image = picture(8, 8)
    padded = np.zeros((12, 12, 3), np.uint8)
    padded[2:10, 2:10] = np.asarray(image)
    seen = set()
    for key in range(60):
        out = np.asarray(transforms.random_crop(image, Draws(key), 8, padding=2))
        draws = Draws(key)
        left, top = draws.below(5), draws.below(5)
        np.testing.assert_array_equal(out, padded[top : top + 8, left : left + 8])
        seen.add((left, top))
    assert len(seen) > 18
    with pytest.raises(Unreadable, match=r"8 x 8 pixels with a padding of 2 .* a padding of 12"):
        transforms.random_crop(image, Draws(0), 32, padding=2)


def test_center_crop_resizes_the_shorter_side():
    image = picture(50, 30)
    out = transforms.center_crop(image, Draws(0), 21, share=0.875)
    whole = image.resize((40, 24), BICUBIC)  # 21 / 0.875 = 24
    same(out, whole.crop((10, 2, 31, 23)))  # round(9.5) = 10, round(1.5) = 2
    same(transforms.center_crop(image, Draws(0), 30, share=1.0), image.crop((10, 0, 40, 30)))
    square = picture(16, 16)
    assert transforms.center_crop(square, Draws(0), 16, share=1.0) is square


def test_flip_mirrors_half_of_the_images():
    image = picture()
    flipped = [np.asarray(transforms.flip(image, Draws(k), 0)) for k in range(400)]
    mirrored = np.asarray(image)[:, ::-1]
    share = np.mean([(f == mirrored).all() for f in flipped])
    assert abs(share - 0.5) < 0.08
    assert all((f == mirrored).all() or (f == np.asarray(image)).all() for f in flipped)
    same(transforms.flip(image, Draws(0), 0, prob=1.0), mirrored)


def test_brightness_contrast_and_saturation_by_hand():
    image = picture()
    x = pixels(image).astype(float)
    grey = x @ [0.299, 0.587, 0.114]
    cases = {
        "brightness": x * 1.4,
        "contrast": 1.4 * x - 0.4 * np.round(grey.mean()),
        "saturation": 1.4 * x - 0.4 * grey[..., None],
    }
    off = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0}
    for name, expected in cases.items():
        # each factor is drawn from [0.6, 1.4]; then comes the order
        draws = Scripted(0.0, *[1 - 1e-9] * 3, 0.5, *[0.9] * 3)
        out = transforms.color_jitter(image, draws, 0, **{**off, name: 0.4})
        assert abs(pixels(out) - np.clip(expected, 0, 255)).max() <= 2


def test_the_hue_turns():
    red = Image.new("RGB", (2, 2), (255, 0, 0))
    options = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0}
    for number, colour in ((1 - 1e-9, (0, 255, 0)), (0.0, (0, 0, 255))):
        draws = Scripted(0.0, 0.5, 0.5, 0.5, number, 0.9, 0.9, 0.9)
        out = transforms.color_jitter(red, draws, 0, **options, hue=1 / 3)
        assert abs(pixels(out)[0, 0] - colour).max() < 12


def test_the_order_of_the_jitter_is_random():
    image = picture()
    bright, contrast = ImageEnhance.Brightness, ImageEnhance.Contrast
    seen = set()
    for key in range(20):
        draws = Draws(key)
        draws.chance(1.0)
        factors = [draws.uniform(0.2, 1.8), draws.uniform(0.2, 1.8)]
        out = transforms.color_jitter(
            image, Draws(key), 0, brightness=0.8, contrast=0.8, saturation=0.0
        )
        first = contrast(bright(image).enhance(factors[0])).enhance(factors[1])
        second = bright(contrast(image).enhance(factors[1])).enhance(factors[0])
        matches = [np.array_equal(out, first), np.array_equal(out, second)]
        assert any(matches)
        seen.add(matches.index(True))
    assert seen == {0, 1}


def test_grey_blur_and_solarize():
    image = picture()
    x = pixels(image)
    grey = pixels(transforms.grayscale(image, Draws(0), 0, prob=1.0))
    assert (grey[..., :1] == grey).all()
    assert abs(grey[..., 0] - x @ [0.299, 0.587, 0.114]).max() <= 1
    solar = transforms.solarize(image, Draws(0), 0, threshold=100, prob=1.0)
    same(solar, np.where(x < 100, x, 255 - x).astype(np.uint8))
    dot = Image.new("RGB", (41, 41))
    dot.putpixel((20, 20), (255, 255, 255))
    blurred = pixels(transforms.gaussian_blur(dot, Draws(1), 0, sigma=(2.0, 2.0), prob=1.0))[..., 0]
    place = np.arange(41) - 20
    spread = (blurred.sum(0) * place**2).sum() / blurred.sum()
    assert spread == pytest.approx(4.0, abs=0.8) and blurred[20, 20] < 20


def test_random_erasing_puts_noise_into_one_rectangle():
    grey = Image.new("RGB", (60, 50), (0, 255, 0))
    areas, aspects, values = [], [], []
    for key in range(300):
        out = pixels(transforms.random_erasing(grey, Draws(key), 0, prob=1.0))
        changed = (out != [0, 255, 0]).any(2)
        rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        assert changed.mean() > 0.015
        h, w = np.ptp(rows) + 1, np.ptp(columns) + 1
        areas.append(h * w / 3000)
        aspects.append(h / w)
        values.append(out[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].reshape(-1, 3))
    assert min(areas) > 0.015 and max(areas) < 0.35 and 0.1 < np.mean(areas) < 0.2
    assert min(aspects) < 0.5 and max(aspects) > 2
    noise = (np.concatenate(values) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    assert abs(noise.mean()) < 0.03 and abs(noise.std() - 1) < 0.05  # tails are truncated
    kept = [transforms.random_erasing(grey, Draws(k), 0) is grey for k in range(400)]
    assert abs(np.mean(kept) - 0.75) < 0.07


def test_the_operations_of_rand_augment():
    image = picture()
    x = pixels(image)
    full, none = Scripted(0.9), Scripted(0.1)  # the sign stays or flips
    bicubic = Image.Resampling.BICUBIC
    half = rand_augment.posterize(image, 0.5, full, bicubic)
    same(half, (x & 0b11000000).astype(np.uint8))
    assert not pixels(rand_augment.posterize(image, 1.0, full, bicubic)).any()
    added = rand_augment.solarize_add(image, 0.5, full, bicubic)
    same(added, np.where(x < 128, np.minimum(x + 55, 255), x).astype(np.uint8))
    solar = rand_augment.solarize(image, 0.25, full, bicubic)
    same(solar, np.where(x < 192, x, 255 - x).astype(np.uint8))
    same(rand_augment.solarize(image, 0.0, full, bicubic), image)
    same(rand_augment.invert(image, 1.0, full, bicubic), (255 - x).astype(np.uint8))
    moved = pixels(rand_augment.translate_x(image, 0.5, full, bicubic))
    np.testing.assert_array_equal(moved[:, :31], x[:, 9:])  # 0.225 of 40 pixels
    assert (moved[:, 32:] == [124, 116, 104]).all()
    back = pixels(rand_augment.translate_y(image, 1 / 1.35, none, bicubic))
    np.testing.assert_array_equal(back[10:], x[:20])
    turned = rand_augment.rotate(image, 1.0, Scripted(0.9), bicubic)
    same(turned, image.rotate(30, resample=bicubic, fillcolor=(124, 116, 104)))
    colour = rand_augment.OPERATIONS[7](image, 1.0, Scripted(0.9), bicubic)
    same(colour, ImageEnhance.Color(image).enhance(1.9))
    less = rand_augment.OPERATIONS[9](image, 1.0, Scripted(0.1), bicubic)
    same(less, ImageEnhance.Brightness(image).enhance(0.1))


def test_rand_augment_draws_operations_and_strengths(monkeypatch):
    seen = []

    def spy(number):
        def change(image, level, draws, resample):
            seen.append((number, 10 * level))
            return image

        return change

    monkeypatch.setattr(rand_augment, "OPERATIONS", tuple(map(spy, range(15))))
    for key in range(2000):
        rand_augment.rand_augment(picture(8, 8), Draws(key), 0)
    number, level = np.array(seen).T
    assert abs(len(seen) / 2000 - 1.0) < 0.06  # two layers, each with probability one half
    assert np.bincount(number.astype(int)).min() > 0.6 * len(seen) / 15
    assert level.max() == 10.0 and abs(np.median(level) - 9) < 0.05
    # half of the normal numbers lie within 0.674 deviations
    assert np.quantile(level, 0.25) == pytest.approx(9 - 0.5 * 0.674, abs=0.05)
    seen.clear()
    rand_augment.rand_augment(picture(8, 8), Draws(0), 0, layers=3, prob=1.0, magnitude=4.0, std=0)
    assert [level for _, level in seen] == [4.0] * 3


def test_steps_run_in_their_own_order_from_their_own_streams():
    section = {"random_erasing": {"prob": 1.0}, "flip": {"prob": 1.0}, "random_crop": {}}
    steps = transforms.build(section, "key")
    assert [n for n, _ in steps] == [1, 3, 9]
    image = picture(16, 16)
    few = transforms.build({"flip": {}, "random_crop": {}}, "key")
    more = transforms.build({"flip": {}, "random_crop": {}, "solarize": {"prob": 0.0}}, "key")
    for key in range(5):
        out = transforms.apply(few, image, key, 16)
        assert out.shape == (16, 16, 3) and out.dtype == np.uint8
        np.testing.assert_array_equal(out, transforms.apply(more, image, key, 16))


def test_every_step_runs_and_keeps_the_size():
    section = {"random_resized_crop": {}} | {name: {} for name in transforms.CHANGES}
    steps = transforms.build(section, "key")
    for key in range(30):
        assert transforms.apply(steps, picture(seed=key), key, 24).shape == (24, 24, 3)


def test_errors_name_the_key():
    crop = {"center_crop": {}}
    cases = [
        ({"crop": {}}, "t.crop does not exist: use any of random_resized_crop, random_crop"),
        ({}, "t has no crop: name exactly one of random_resized_crop"),
        ({**crop, "random_crop": {}}, r"t has \['center_crop', 'random_crop'\]: name exactly one"),
        ({**crop, "flip": {"p": 0.5}}, "t.flip.p does not exist: use prob"),
        ({**crop, "flip": {"prob": 1.5}}, "t.flip.prob is 1.5: use a number such as 0.5"),
        ({"center_crop": {"share": 0.0}}, "t.center_crop.share is 0.0: use a number"),
        ({"center_crop": {"interpolation": "cubic"}}, "interpolation is 'cubic': use one of near"),
        ({"random_resized_crop": {"scale": (1.0, 0.2)}}, r"scale is \(1.0, 0.2\): use two ascend"),
        ({"random_resized_crop": {"clamp": 1}}, "clamp is 1: use True or False"),
        ({"random_crop": {"padding": 4.0}}, "padding is 4.0: use a whole number, such as 4"),
    ]
    for section, message in cases:
        with pytest.raises(DataError, match=message):
            transforms.build(section, "t")
