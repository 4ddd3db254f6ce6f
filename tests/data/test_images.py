import io
import os
import pickle
import tarfile

import numpy as np
import pytest
from PIL import Image

from ssl_jax.data.corpus import make_schedule, open_split
from ssl_jax.data.errors import BadFile, DataError
from ssl_jax.data.loader import batches
from ssl_jax.data.readers import image_files
from ssl_jax.data.readers.pixels import decode


def picture(seed, width=12, height=10):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def encoded(pixels, form="PNG"):
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, form)
    return out.getvalue()


def add(tar, name, data):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


@pytest.fixture
def archive(tmp_path):
    """A tar of three classes of 2, 3 and 4 images, and a file that is not an image."""
    path = tmp_path / "some.tar"
    with tarfile.open(path, "w") as tar:
        add(tar, "README.txt", b"hello")
        for c, name in enumerate(("cat", "dog", "emu")):
            for i in range(2 + c):
                add(tar, f"all/{name}/{i}.png", encoded(picture(10 * c + i)))
    return path


def tar_source(path, **options):
    return {"t": {"kind": "image_tar", "path": str(path), **options}}


def collect(config, start=0, stop=9, shuffle=True, seed=0, **options):
    corpus = open_split(config, "train")
    plan = make_schedule(corpus, config, seed=seed, shuffle=shuffle)
    return [a for a, bads in batches(corpus, plan, start, stop, **options) if not bads]


def assert_equal(a, b):
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        assert list(x) == list(y)
        for key in x:
            np.testing.assert_array_equal(x[key], y[key])


def test_a_tar_is_read_in_place(archive, image_config):
    corpus = open_split(image_config(tar_source(archive)), "train")
    assert corpus.classes == ("cat", "dog", "emu") and len(corpus) == 9
    assert corpus.labels.tolist() == [0, 0, 1, 1, 1, 2, 2, 2, 2]
    np.testing.assert_array_equal(np.asarray(corpus.read(3)), picture(11))
    assert corpus.where(3).endswith("some.tar: all/dog/1.png, row 4")


def test_the_place_of_each_image_is_read_once(archive, image_config, monkeypatch):
    open_split(image_config(tar_source(archive)), "train")
    read = image_files._members
    monkeypatch.setattr(image_files, "_members", lambda name: pytest.fail("read again"))
    assert len(open_split(image_config(tar_source(archive)), "train")) == 9
    monkeypatch.setattr(image_files, "_members", read)
    with tarfile.open(archive, "a") as tar:
        add(tar, "all/fox/0.png", encoded(picture(5)))
    assert len(open_split(image_config(tar_source(archive)), "train")) == 10


def test_several_tars_one_of_each_class(tmp_path, image_config):
    for name in ("n01", "n02"):
        with tarfile.open(tmp_path / f"{name}.tar", "w") as tar:
            for i in range(3):
                add(tar, f"{name}_{i}.png", encoded(picture(i)))
    corpus = open_split(image_config(tar_source(tmp_path)), "train")
    assert corpus.classes == ("n01", "n02") and corpus.labels.tolist() == [0] * 3 + [1] * 3
    assert pickle.loads(pickle.dumps(corpus)).read(4).tobytes() == corpus.read(4).tobytes()
    kept, image_files._KEPT_OPEN = image_files._KEPT_OPEN, 1
    try:
        assert corpus.sources[0].reader.image(5) == encoded(picture(2))
    finally:
        image_files._KEPT_OPEN = kept


def test_a_tar_that_is_compressed_or_cut_is_an_error(archive, tmp_path, image_config):
    packed = tmp_path / "packed.tar"
    with tarfile.open(packed, "w:gz") as tar:
        add(tar, "a/0.png", encoded(picture(0)))
    cut = tmp_path / "cut.tar"
    cut.write_bytes(archive.read_bytes()[:2000])
    for path in (packed, cut):
        with pytest.raises(DataError, match=r"train.t.path.* is not a complete, uncompressed tar"):
            open_split(image_config(tar_source(path)), "train")


def test_links_within_a_tar_are_read(archive, tmp_path, image_config):
    with tarfile.open(archive, "a") as tar:
        for name, kind, to in (
            ("fox/hard.png", tarfile.LNKTYPE, "all/cat/1.png"),
            ("fox/soft.png", tarfile.SYMTYPE, "../all/dog/0.png"),
            ("fox/chain.PNG", tarfile.SYMTYPE, "soft.png"),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, to
            tar.addfile(info)
    corpus = open_split(image_config(tar_source(archive)), "train")
    assert len(corpus) == 12 and corpus.classes == ("cat", "dog", "emu", "fox")
    for row, same in ((9, 1), (10, 2), (11, 2)):
        np.testing.assert_array_equal(np.asarray(corpus.read(row)), np.asarray(corpus.read(same)))
    for to in ("all/none.png", "fox/round.png"):
        broken = tmp_path / "broken.tar"
        with tarfile.open(broken, "w") as tar:
            info = tarfile.TarInfo("fox/round.png")
            info.type, info.linkname = tarfile.LNKTYPE, to
            tar.addfile(info)
        with pytest.raises(DataError, match=rf"fox/round.png is a link to {to}, which is not in"):
            open_split(image_config(tar_source(broken)), "train")


def test_a_tar_that_ends_early_or_has_a_broken_member_is_named(archive, image_config):
    whole = archive.read_bytes()
    with tarfile.open(archive) as tar:
        header = tar.getmember("all/dog/1.png").offset
        last = tar.getmembers()[-1]
    archive.write_bytes(whole[:header] + b"x" * 512 + whole[header + 512 :])
    with pytest.raises(DataError, match=r"has a broken header after all/dog/0.png: copy the whole"):
        open_split(image_config(tar_source(archive)), "train")
    archive.write_bytes(whole[: last.offset_data + 50])
    with pytest.raises(
        DataError, match=r"some.tar is not a complete, uncompressed tar: unexpected end"
    ):
        open_split(image_config(tar_source(archive)), "train")
    archive.write_bytes(whole)
    parts = archive.parent / "parts"
    parts.mkdir()
    for i in (0, 1, 3):
        (parts / f"set-{i:05d}-of-00004.tar").write_bytes(whole)
    with pytest.raises(DataError, match=r"lacks 1 of the 4 parts .*set-00002-of-00004.tar"):
        open_split(image_config(tar_source(parts)), "train")


def test_a_folder_of_classes(tmp_path, image_config):
    for i, name in enumerate(("b/1.png", "a/deep/2.PNG", "b/.hidden.png", "b/notes.txt")):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(picture(i)))
    source = {"f": {"kind": "image_folder", "path": str(tmp_path)}}
    corpus = open_split(image_config(source), "train")
    assert corpus.classes == ("b", "deep") and corpus.labels.tolist() == [1, 0]
    np.testing.assert_array_equal(np.asarray(corpus.read(1)), picture(0))


def test_a_batch_of_images(archive, image_config):
    batch = collect(image_config(tar_source(archive)), 0, 1)[0]
    assert {k: (v.shape, str(v.dtype)) for k, v in batch.items()} == {
        "id": ((4,), "uint32"),
        "image": ((4, 8, 8, 3), "uint8"),
        "label": ((4,), "int32"),
        "weight": ((4,), "float32"),
    }


def test_any_number_of_threads_hosts_and_starts_gives_the_same_bits(archive, image_config):
    config = image_config(tar_source(archive))
    reference = collect(config, threads=0)
    for options in ({"threads": 4}, {"threads": 1}):
        assert_equal(reference, collect(config, **options))
    assert_equal(reference[5:], collect(config, 5))
    assert_equal(reference, collect({**config, "keep_mb": 0}))
    parts = [collect(config, parts=(h,), of=2) for h in range(2)]
    joined = [{k: np.concatenate([p[s][k] for p in parts]) for k in parts[0][s]} for s in range(9)]
    assert_equal(reference, joined)


@pytest.mark.slow
def test_any_number_of_workers_gives_the_same_bits(archive, image_config):
    config = image_config(tar_source(archive))
    assert_equal(collect(config), collect(config, workers=2, threads=1))


def test_augmentation_follows_seed_id_and_epoch(archive, image_config):
    config = image_config(tar_source(archive))

    def views(seed, stop):
        found = {}
        for batch in collect(config, 0, stop, seed=seed):
            for i, image in zip(batch["id"].tolist(), batch["image"], strict=True):
                found.setdefault(i, []).append(image.tobytes())
        return found

    first, again, other = views(0, 9), views(0, 9), views(1, 9)
    assert first == again
    # 36 views of 9 images in 3 epochs: the fill of an epoch's last batch repeats that epoch's view
    assert [len(set(v)) for v in first.values()] == [3] * 9
    # with so few pixels, two crops may coincide by chance
    assert sum(v in other[i] for i in first for v in first[i]) < 9


def test_views_draw_for_themselves_and_the_first_is_that_of_a_single_one(archive, image_config):
    one = collect(image_config(tar_source(archive)))
    two = collect(image_config(tar_source(archive), views=2))
    for a, b in zip(one, two, strict=True):
        assert b["image"].shape == (4, 2, 8, 8, 3)
        np.testing.assert_array_equal(b["image"][:, 0], a["image"])
    same = [np.array_equal(*image) for b in two for image in b["image"]]
    assert np.mean(same) < 0.1
    assert_equal(two, collect(image_config(tar_source(archive), views=2), threads=3))


def test_a_view_may_have_transforms_of_its_own(archive, image_config):
    inverted = {"random_resized_crop": {}, "flip": {}, "solarize": {"threshold": 0, "prob": 1.0}}
    options = {"views": 2, "transforms": {"random_resized_crop": {}, "flip": {}}}
    plain = collect(image_config(tar_source(archive), **options))
    own = collect(image_config(tar_source(archive), **options, view_transforms={"view2": inverted}))
    for a, b in zip(plain, own, strict=True):
        np.testing.assert_array_equal(b["image"][:, 0], a["image"][:, 0])
        np.testing.assert_array_equal(b["image"][:, 1], 255 - a["image"][:, 1])


def test_views_are_equal_in_evaluation(archive, image_config):
    one, two = (
        collect(image_config(tar_source(archive), views=n), 0, None, shuffle=False) for n in (1, 2)
    )
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(b["image"], np.stack([a["image"]] * 2, 1))


def test_evaluation_takes_the_middle(archive, image_config):
    config = image_config(tar_source(archive))
    rows = collect(config, 0, None, shuffle=False)
    images = np.concatenate([b["image"][b["weight"] > 0] for b in rows])
    assert len(images) == 9
    image = Image.fromarray(picture(0)).resize((12, 10), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(images[0], np.asarray(image.crop((2, 1, 10, 9))))


def spoil(archive):
    """Appends three unusable images; returns name -> reason."""
    with tarfile.open(archive, "a") as tar:
        add(tar, "all/cat/broken.png", b"no image")
        add(tar, "all/cat/cut.png", encoded(picture(0, 40, 40))[:600])
        add(tar, "all/cat/empty.png", b"")
        add(tar, "all/cat/tiny.png", encoded(picture(0, 9, 3)))
    return {
        "broken.png, row 10": "no image format is recognised in its 8 bytes",
        "cut.png, row 11": "cannot be decoded: ",
        "empty.png, row 12": "empty: 0 bytes",
        "tiny.png, row 13": "too small: 9 x 3 pixels, with a side below config.data.min_side=4",
    }


def test_images_that_cannot_be_used_are_named(archive, image_config):
    reasons = spoil(archive)
    corpus = open_split(image_config(tar_source(archive)), "train")
    for i, (place, reason) in zip(range(9, 13), reasons.items(), strict=True):
        with pytest.raises(BadFile, match=f"all/cat/{place}: .*{reason}"):
            corpus.read(i)
    with pytest.raises(BadFile):
        collect(image_config(tar_source(archive)))


def test_images_that_cannot_be_used_are_skipped(archive, image_config):
    reasons = spoil(archive)
    config = image_config(tar_source(archive), on_bad="skip")
    corpus = open_split(config, "train")
    found = {}
    for arrays, bads in batches(corpus, make_schedule(corpus, config, seed=0), 0, 8):
        skipped = np.isin(arrays["id"], [b.id for b in bads])
        assert (arrays["weight"] == ~skipped).all() and not arrays["image"][skipped].any()
        found.update({b.where: b.reason for b in bads})
    assert sorted(w.split("/")[-1] for w in found) == sorted(reasons)


def test_every_kind_of_image_becomes_rgb():
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    colour = picture(1, 8, 8)
    cases = [
        (encoded(grey), np.repeat(grey[..., None], 3, 2)),
        (encoded(np.dstack([colour, grey])), colour),
        (encoded((grey.astype(np.uint16) << 8) + 7), np.repeat(grey[..., None], 3, 2)),
        (grey[..., None], np.repeat(grey[..., None], 3, 2)),
        (colour, colour),
    ]
    for data, expected in cases:
        np.testing.assert_array_equal(np.asarray(decode(data)), expected)
    palette = Image.fromarray(colour).quantize(64)
    out = io.BytesIO()
    palette.save(out, "PNG", transparency=3)
    np.testing.assert_array_equal(np.asarray(decode(out.getvalue())), palette.convert("RGB"))


def test_config_errors(archive, image_config):
    good = tar_source(archive)
    cases = [
        ({}, {}, "config.data.train.mine = dict.kind='image_folder'"),
        ({"t": {"kind": "folder", "path": "."}}, {}, "or set config.data.modality to 'audio'"),
        (
            {"t": {"kind": "image_tar", "path": str(archive), "split": "a"}},
            {},
            "split is not a key",
        ),
        (good, {"modality": "picture"}, "config.data.modality is 'picture': use one of audio"),
        (good, {"image_size": 0}, "config.data.image_size is 0"),
        (good, {"transforms": {"flip": {}}}, "config.data.transforms has no crop: name exactly"),
        (good, {"eval_transforms": {"rotate": {}}}, "config.data.eval_transforms.rotate does not"),
        (good, {"views": 0}, "config.data.views is 0: use a whole number, such as 1 or 2"),
        (
            good,
            {"views": 2, "view_transforms": {"view3": {"random_crop": {}}}},
            "view_transforms.view3 belongs to no view: with config.data.views=2 use view1, view2",
        ),
        (
            good,
            {"views": 2, "view_transforms": {"view2": {"flip": {}}}},
            "config.data.view_transforms.view2 has no crop",
        ),
    ]
    for train, options, message in cases:
        with pytest.raises(DataError, match=message):
            open_split(image_config(train, **options), "train")


def test_the_shared_images(image_config):
    path = "../shared/data/cifar10/train.tar"
    if not os.path.exists(path):
        pytest.skip("no copy of CIFAR-10 beside the repository")
    corpus = open_split(image_config(tar_source(path)), "train")
    assert len(corpus) == 6000 and np.bincount(corpus.labels).tolist() == [600] * 10
    assert corpus.read(5999).size == (32, 32)
