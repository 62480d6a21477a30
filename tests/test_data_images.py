"""Images: Parquet, pictures in folders, augmentation, and changed data sets."""

from __future__ import annotations

import dataclasses
import io
import sys
import types

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from PIL import Image

from layerscope import data
from layerscope.base import memory
from layerscope.core.batches import FixedBatches
from layerscope.errors import DataError, ExtraError, OptionError
from layerscope.zoo.data import _parquet as parquet, _pictures as pictures

pa = pytest.importorskip("pyarrow", reason="Parquet needs pyarrow (extra data)")
pq = pytest.importorskip("pyarrow.parquet")

CPU = torch.device("cpu")


def pixels(seed, height=6, width=6):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def encoded(array, form="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, form)
    return buffer.getvalue()


def write_parquet(path, images, labels, image="img", label="label"):
    column = pa.array(
        [{"bytes": value, "path": None} for value in images],
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({image: column, label: pa.array(labels, pa.int64())}), path)


@pytest.fixture
def as_parquet(tmp_path):
    """Ten + five lossless images of three classes, in two training files."""
    arrays = [pixels(seed) for seed in range(15)]
    images, labels = [encoded(array) for array in arrays], [seed % 3 for seed in range(15)]
    write_parquet(
        tmp_path / "pets" / "data" / "train-00000-of-00002.parquet", images[:4], labels[:4]
    )
    write_parquet(
        tmp_path / "pets" / "data" / "train-00001-of-00002.parquet", images[4:10], labels[4:10]
    )
    write_parquet(tmp_path / "pets" / "data" / "test.parquet", images[10:], labels[10:], "image")
    return tmp_path, np.stack(arrays), labels


# Parquet


def test_parquet_comes_out_as_it_went_in(as_parquet):
    root, arrays, labels = as_parquet
    pets = data.load("pets", root)
    whole = torch.cat([pets.train.inputs, pets.test.inputs])
    assert torch.equal(whole, torch.from_numpy(arrays).permute(0, 3, 1, 2))
    assert torch.cat([pets.train.targets, pets.test.targets]).tolist() == labels
    assert (pets.name, pets.classes, pets.shape) == ("pets", 3, (3, 6, 6))
    scaled = arrays[:10].astype(np.float64) / 255
    assert pets.train.mean == tuple(np.round(scaled.mean((0, 1, 2)), 4).tolist())
    assert pets.train.std == tuple(np.round(scaled.std((0, 1, 2)), 4).tolist())
    assert (pets.test.mean, pets.test.std) == (pets.train.mean, pets.train.std)
    by_path = data.load(root / "pets")
    assert by_path.train.fingerprint == pets.train.fingerprint


def test_grey_images_keep_their_one_channel(tmp_path):
    images = [encoded(pixels(seed)[..., 0]) for seed in range(4)]
    for part in ("train", "test"):
        write_parquet(tmp_path / f"{part}.parquet", images, [0, 1, 0, 1])
    assert data.load(tmp_path).shape == (1, 6, 6)


@pytest.mark.parametrize(("form", "name"), [("PNG", "cifar10"), ("JPEG", "cifar10-jpeg")])
def test_cifar10_from_parquet_says_whether_it_lost_detail(tmp_path, form, name):
    images = [encoded(pixels(seed, 32, 32), form) for seed in range(4)]
    for part in ("train", "test"):
        write_parquet(tmp_path / "cifar10" / f"{part}-00000.parquet", images, [0, 9, 3, 3])
    found = data.load("cifar10", tmp_path)
    assert (found.name, found.test.name, found.classes) == (name, f"{name} test", 10)
    if form == "JPEG":
        again = data.load(found.name, tmp_path)
        assert again.train.fingerprint == found.train.fingerprint
    else:
        with pytest.raises(DataError, match="holds no JPEG images; load it as 'cifar10'"):
            data.load("cifar10-jpeg", tmp_path)


def test_the_shared_cifar10_is_read_whole(data_root):
    if not (data_root / "cifar10").is_dir():
        pytest.skip("the shared data sets have no CIFAR-10")
    parts = {part: parquet.read(data_root / "cifar10", part) for part in ("train", "test")}
    assert parts["train"].targets.bincount().tolist() == [5000] * 10
    assert all(part.lossy for part in parts.values())
    test = parquet.decode_all(parts["test"], "cifar10-jpeg test")
    assert test.inputs.shape == (10_000, 3, 32, 32)
    assert test.targets.bincount().tolist() == [1000] * 10
    assert test.mean == pytest.approx((0.494, 0.485, 0.450), abs=0.001)


def test_unreadable_images_are_counted_and_left_out_only_on_request(tmp_path):
    images = [encoded(pixels(seed)) for seed in range(6)]
    images[2], images[5] = images[2][:40], b"no image"
    for part in ("train", "test"):
        write_parquet(tmp_path / f"{part}.parquet", images, range(6))
    with pytest.raises(DataError, match=r"2 of 6 images .* rows 2, 5 .*skip_unreadable=True"):
        data.load(tmp_path)
    found = data.load(tmp_path, skip_unreadable=True)
    assert found.train.targets.tolist() == [0, 1, 3, 4]
    assert torch.equal(found.train.inputs[2], torch.from_numpy(pixels(3)).permute(2, 0, 1))
    assert "2 unreadable left out" in found.train.name
    assert "2 unreadable left out" in found.origin


# Other depths than 8 bits


DEEP = np.array([[0, 257, 1000], [32768, 65278, 65535]], np.uint16)
PLAIN = [[0, 1, 4], [128, 254, 255]]  # value · 255 / 65535, rounded


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_grey_pictures_of_16_bits_are_scaled_not_clipped(tmp_path, form):
    for part in ("train", "test"):
        write_parquet(tmp_path / f"{part}.parquet", [encoded(DEEP, form)] * 2, [0, 1])
        for label in "ab":
            place = tmp_path / "files" / part / label
            place.mkdir(parents=True)
            (place / "0.png").write_bytes(encoded(DEEP, form))
    assert data.load(tmp_path).train.inputs.tolist() == [[PLAIN]] * 2
    found = pictures.decode(tmp_path / "files" / "train" / "a" / "0.png")
    assert np.asarray(found).transpose(2, 0, 1).tolist() == [PLAIN] * 3


def test_a_depth_without_a_known_white_is_refused_by_name(tmp_path):
    for part in ("train", "val"):
        (tmp_path / part / "cat").mkdir(parents=True)
        deep = Image.fromarray(np.ones((3, 3), np.float32))
        deep.save(tmp_path / part / "cat" / "a.tiff")
    with pytest.raises(DataError, match=r"a\.tiff has 32 bits a pixel .*mode F.*8 or 16 bits"):
        data.load(tmp_path, image_size=2, stream=False)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda p: (p / "test.parquet").unlink(), "no Parquet file of its test part"),
        (lambda p: (p / "test.parquet").write_bytes(b"PAR1 no"), "can't be read as a Parquet"),
        (
            lambda p: pq.write_table(pa.table({"x": [1.0]}), p / "test.parquet"),
            r"columns x: double; expected one of images",
        ),
        (
            lambda p: write_parquet(p / "test.parquet", [encoded(pixels(0))], [-1]),
            "labels below 0",
        ),
        (lambda p: write_parquet(p / "test.parquet", [], []), "holds no images"),
        (lambda p: write_parquet(p / "test.parquet", [None], [1]), "1 of 1 rows .* no image bytes"),
        (lambda p: write_parquet(p / "test.parquet", [b""], [1]), "none of the 1 images"),
        (
            lambda p: write_parquet(
                p / "test.parquet", [encoded(pixels(0)), encoded(pixels(0, 5, 7))], [0, 1]
            ),
            r"test\.parquet: row 1 holds an image of 5×7 pixels in 3 channels, the first one 6×6",
        ),
        (
            lambda p: write_parquet(p / "test.parquet", [encoded(pixels(0, 5, 7))], [0]),
            r"training images have the shape \(3, 6, 6\), test images \(3, 5, 7\)",
        ),
    ],
)
def test_broken_parquet_is_refused_in_words(tmp_path, break_it, message):
    for part in ("train", "test"):
        write_parquet(tmp_path / f"{part}.parquet", [encoded(pixels(0))], [0])
    break_it(tmp_path)
    with pytest.raises(DataError, match=message):
        data.load(tmp_path)


def test_without_pyarrow_the_extra_is_named(as_parquet, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ExtraError, match=r'pip install "layerscope\[data\]"'):
        data.load("pets", as_parquet[0])


def test_what_would_not_fit_is_refused_before_it_is_decoded(as_parquet, monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 10 * 108 - 1)
    monkeypatch.setattr(np, "empty", None)
    with pytest.raises(DataError, match=r"10 images of 6×6 needs about .* are available\. Write"):
        data.load("pets", as_parquet[0])


def test_the_stricter_limit_on_memory_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    5 kB\n")
    assert memory.available() == 5120
    (tmp_path / "memory.max").write_text("3000\n")
    (tmp_path / "memory.current").write_text("1500\n")
    (tmp_path / "memory.stat").write_text("anon 7\ninactive_file 500\n")
    assert memory.available() == 2000
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.available() == 5120


# The official CIFAR-10


def test_official_cifar10_goes_before_parquet(tmp_path, monkeypatch):
    import torchvision.datasets

    (tmp_path / "cifar-10-batches-py").mkdir()
    arrays = np.stack([pixels(seed, 32, 32) for seed in range(3)])
    made = []

    def official(root, train, download):
        made.append((root, train, download))
        return types.SimpleNamespace(data=arrays, targets=[1, 2, 9])

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", official)
    found = data.load("cifar10", tmp_path)
    assert made == [(tmp_path, True, False), (tmp_path, False, False)]
    assert torch.equal(found.train.inputs, torch.from_numpy(arrays).permute(0, 3, 1, 2))
    assert found.test.targets.dtype == torch.int64
    assert found.name == "cifar10"


def test_an_incomplete_official_cifar10_says_how_to_mend_it(tmp_path):
    (tmp_path / "cifar-10-batches-py").mkdir()
    with pytest.raises(DataError, match=r"not CIFAR-10 in its official form.*download=True"):
        data.load("cifar10", tmp_path)


# Pictures in folders


@pytest.fixture
def folders(tmp_path):
    """ImageNet's layout in small: two classes, pictures of different sizes."""
    shapes = [(40, 60), (61, 33), (32, 32), (300, 31), (35, 200)]
    for part in ("train", "val"):
        for number, shape in enumerate(shapes):
            place = tmp_path / "imagenet" / part / f"n0{number % 2}"
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels(number, *shape)).save(place / f"{number}.png")
    return tmp_path


def test_evaluation_cuts_as_torchvision_does(folders):
    from torchvision import datasets, transforms

    found = data.load("imagenet", folders, image_size=28, workers=2)
    plain = datasets.ImageFolder(
        folders / "imagenet" / "val",
        transforms.Compose(
            [
                transforms.Resize(32),
                transforms.CenterCrop(28),
                transforms.PILToTensor(),
            ]
        ),
    )
    whole = torch.stack([image for image, _ in plain])
    expected = data.Examples(
        whole, torch.tensor(plain.targets), found.test.mean, found.test.std
    ).batches(2)
    for (ours, labels), (theirs, targets) in zip(found.test.batches(2), expected, strict=True):
        assert torch.equal(ours, theirs)
        assert torch.equal(labels, targets)
    assert torch.equal(found.test.in_memory().inputs, whole)
    assert (found.name, found.classes, found.shape) == ("imagenet+image_size=28", 2, (3, 28, 28))
    assert data.load(found.name, folders).test.fingerprint == found.test.fingerprint


def test_imagenet_is_resized_to_256_and_cut_to_224(folders):
    test = data.load("imagenet", folders).test
    assert (test.resize, test.size, test.mean) == (256, 224, (0.485, 0.456, 0.406))


def test_threads_change_nothing(folders):
    crops = data.RandomResizedCrop().at(seed=3, epoch=2)
    order = torch.tensor([4, 0, 2, 1])
    passes = []
    for workers in (1, 4):
        part = data.load("imagenet", folders, image_size=20, workers=workers).train
        passes.append(list(part.batches(3, order, crops)))
    assert [len(inputs) for inputs, _ in passes[0]] == [3, 1]
    for (a, b), (c, d) in zip(*passes, strict=True):
        assert torch.equal(a, c)
        assert torch.equal(b, d)


@pytest.mark.usefixtures("same_global_generator")
def test_a_random_piece_depends_on_seed_epoch_and_picture_alone(folders):
    part = data.load("imagenet", folders, image_size=20).train

    def seen(seed, epoch, order, size):
        crops = data.RandomResizedCrop().at(seed, epoch)
        batches = part.batches(size, torch.tensor(order), crops)
        return torch.cat([inputs for inputs, _ in batches])

    whole = seen(0, 1, [0, 1, 2, 3, 4], 5)
    assert torch.equal(seen(0, 1, [3, 1], 1), whole[[3, 1]])
    assert not torch.equal(seen(0, 2, [0, 1, 2, 3, 4], 5), whole)
    assert not torch.equal(seen(1, 1, [0, 1, 2, 3, 4], 5), whole)


@given(st.integers(1, 400), st.integers(1, 400), st.integers(0, 99))
def test_random_pieces_lie_inside_the_picture(height, width, seed):
    crop = data.RandomResizedCrop()
    top, left, h, w = crop._box(height, width, torch.Generator().manual_seed(seed))
    assert 0 <= top <= height - h
    assert 0 <= left <= width - w
    assert min(h, w) >= 1


def test_unreadable_pictures_are_named_and_left_out_only_on_request(folders):
    broken = folders / "imagenet" / "val" / "n00" / "2.png"
    broken.write_bytes(broken.read_bytes()[:900])
    part = data.load("imagenet", folders, image_size=20).test
    name = r"n00.2\.png"
    with pytest.raises(DataError, match=rf"1 of this batch of 3 pictures .* {name}.*skip_unread"):
        list(part.batches(3))
    with pytest.raises(DataError, match=rf"1 of 5 pictures .* can't be read: {name}"):
        data.load("imagenet", folders, image_size=20, stream=False)
    whole = data.load("imagenet", folders, image_size=20, skip_unreadable=True)
    assert (len(whole.train), len(whole.test)) == (5, 4)
    assert whole.test.name.endswith("1 unreadable left out")
    assert "1 unreadable left out" in whole.origin
    assert sum(len(inputs) for inputs, _ in whole.test.batches(3)) == 4


def test_in_memory_is_refused_where_it_would_not_fit(folders, monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 5 * 3 * 20**2 - 1)
    with pytest.raises(DataError, match=r"5 pictures of 20×20 needs .*stream=True"):
        data.load("imagenet", folders, image_size=20, stream=False)


def test_pictures_that_are_held_equal_those_that_are_streamed(folders):
    part = data.load("imagenet", folders, image_size=20).test
    held, streamed = (
        FixedBatches(part, 2, CPU),
        FixedBatches(part, 2, CPU, limit=0),
    )
    for (a, b), (c, d) in zip(held, streamed, strict=True):
        assert torch.equal(a, c)
        assert torch.equal(b, d)
    assert held.fingerprint == streamed.fingerprint == part.fingerprint
    assert (held.count, held.chance) == (streamed.count, streamed.chance) == (5, 0.4)
    assert FixedBatches(part.take(torch.tensor([1, 0])), 2, CPU).fingerprint != held.fingerprint


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda p: (p / "val").rename(p / "odd"), "no folders train and val"),
        (lambda p: (p / "val" / "n01").rename(p / "val" / "n02"), "different classes: n01, n02"),
        (lambda p: [f.unlink() for f in p.glob("val/*/*")], "holds no pictures in folders"),
        (lambda p: (p / "val" / "n01" / "0.png").mkdir(), r"0\.png is a folder, not a picture"),
    ],
)
def test_broken_folders_are_refused_in_words(folders, break_it, message):
    break_it(folders / "imagenet")
    with pytest.raises(DataError, match=message):
        data.load("imagenet", folders)


def test_cuts_larger_than_the_resized_picture_are_refused(folders):
    with pytest.raises(OptionError, match="size is 33 and resize 32"):
        data.Pictures.from_folder(folders / "imagenet" / "val", size=33, resize=32)


# Normalisation and augmentation


def test_channels_are_normalised_each_by_its_own(digits):
    stored = torch.randint(256, (4, 2, 3, 3), generator=torch.Generator().manual_seed(0))
    part = data.Examples(stored.to(torch.uint8), torch.arange(4), (0.25, 0.5), (0.5, 2.0))
    ((inputs, _),) = part.batches(4)
    for channel in range(2):
        plain = data.Examples(
            part.inputs[:, [channel]], part.targets, part.mean[channel], part.std[channel]
        )
        ((expected, _),) = plain.batches(4)
        assert torch.equal(inputs[:, [channel]], expected)
    with pytest.raises(OptionError, match=r"mean has 3 values .* each of the 1 channels"):
        data.Examples(digits.test.inputs, digits.test.targets, (0.1, 0.2, 0.3))


@given(pad=st.integers(0, 3), flip=st.booleans(), seed=st.integers(0, 5))
def test_augmented_images_are_pieces_of_the_bordered_ones(pad, flip, seed):
    images = torch.arange(1, 1 + 5 * 2 * 3 * 4).reshape(5, 2, 3, 4).to(torch.uint8)
    kept = images.clone()
    change = data.Augment(pad, flip)
    found = change(images, torch.Generator().manual_seed(seed))
    assert torch.equal(images, kept)
    bordered = torch.nn.functional.pad(images, [pad] * 4)
    for image, border in zip(found, bordered, strict=True):
        pieces = [
            piece
            for top in range(2 * pad + 1)
            for left in range(2 * pad + 1)
            for plain in [border[:, top : top + 3, left : left + 4]]
            for piece in ([plain, plain.flip(2)] if flip else [plain])
        ]
        assert any(torch.equal(image, piece) for piece in pieces)


def test_augmentation_reaches_every_shift_and_both_sides():
    images = torch.arange(1, 26).reshape(1, 1, 5, 5).repeat(400, 1, 1, 1).to(torch.uint8)
    found = data.Augment(pad=1)(images, torch.Generator().manual_seed(0))
    assert len(torch.unique(found, dim=0)) == 18


@pytest.mark.usefixtures("same_global_generator")
def test_augmentation_goes_on_where_a_training_stopped(digits):
    part = digits.train.first(70)
    order = torch.randperm(70, generator=torch.Generator().manual_seed(1))

    def run(epoch, skip=0):
        batches = part.batches(20, order, data.Augment().at(5, epoch))
        return [inputs for inputs, _ in batches][skip:]

    for one, again in zip(run(2, 1), run(2)[1:], strict=True):
        assert torch.equal(one, again)
    first, second = run(2)[:2]
    assert not torch.equal(first, run(3)[0])
    assert not torch.equal(first, second)


def test_augmentation_takes_images_only():
    with pytest.raises(DataError, match=r"shape \(3, 4\) can't be augmented"):
        data.Augment()(torch.zeros(3, 4), torch.Generator())
    with pytest.raises(OptionError, match="pad is -1"):
        data.Augment(pad=-1)


# Changed data sets


@pytest.mark.parametrize("share", [0, 0.25, 1])
def test_random_labels_replace_exactly_their_share(few_digits, share):
    changed = few_digits.with_random_labels(share, seed=3)
    targets, old = changed.train.targets, few_digits.train.targets
    # Each draw hits the true label once in ten times.
    assert (targets != old).float().mean() == pytest.approx(0.9 * share, abs=0.04)
    assert (targets != old).sum() <= round(share * len(old))
    assert torch.equal(changed.train.inputs, few_digits.train.inputs)
    assert torch.equal(changed.test.targets, few_digits.test.targets)
    again = few_digits.with_random_labels(share, seed=3)
    assert torch.equal(again.train.targets, targets)
    if share:
        other = few_digits.with_random_labels(share, seed=4)
        assert other.train.fingerprint != changed.train.fingerprint != few_digits.train.fingerprint
        part = few_digits.with_random_labels(share, seed=3, part="test")
        assert torch.equal(part.train.targets, old)
        assert not torch.equal(part.test.targets, few_digits.test.targets)


def test_classes_are_relabelled_in_the_order_given(digits):
    changed = digits.of_classes([7, 2])
    assert (changed.classes, len(changed.train), len(changed.test)) == (2, 800, 200)
    assert changed.train.targets.bincount().tolist() == [400, 400]
    sevens = changed.test.inputs[changed.test.targets == 0]
    assert torch.equal(sevens, digits.test.inputs[digits.test.targets == 7])


@given(count=st.integers(1, 20), seed=st.integers(0, 3))
def test_subsets_hold_each_class_by_its_share(count, seed):
    targets = torch.tensor([0] * 12 + [1] * 6 + [5] * 2)
    part = data.Examples(torch.arange(20), targets)
    whole = data.ImageData("x", part, part, 6, "")
    kept = whole.subset(count, seed).train
    assert len(kept) == count
    assert (kept.inputs.diff() > 0).all()
    for label, share in ((0, 0.6), (1, 0.3), (5, 0.1)):
        assert abs(int((kept.targets == label).sum()) - share * count) < 1


@pytest.fixture
def at_once(digits, monkeypatch):
    """The embedded digits without reading them anew."""
    source = data.SOURCES["mnist-5k"]
    known = dataclasses.replace(source, read=lambda _: digits)
    monkeypatch.setitem(data.SOURCES, "mnist-5k", known)


@pytest.mark.usefixtures("at_once")
def test_a_changed_name_loads_the_same_again():
    changed = data.load(
        "mnist-5k", classes=[3, 8, 1], size=100, test_size=20, random_labels=0.5, seed=2
    )
    assert changed.name == ("mnist-5k+classes=3,8,1+size=100@2+test_size=20@2+random_labels=0.5@2")
    assert changed.train.name.startswith("mnist-5k train+classes=3,8,1")
    again = data.load(changed.name)
    assert again.name == changed.name
    assert again.train.fingerprint == changed.train.fingerprint
    assert again.test.fingerprint == changed.test.fingerprint
    assert (len(again.train), len(again.test), again.classes) == (100, 20, 3)


def test_pictures_in_files_are_changed_as_images_are(folders):
    found = data.load("imagenet+size=3@1", folders, image_size=20, random_labels=1.0, seed=4)
    assert found.name == "imagenet+image_size=20+size=3@1+random_labels=1@4"
    ((_, targets),) = found.train.batches(3)
    assert torch.equal(targets, found.train.targets)
    one = data.load("imagenet", folders, image_size=20, classes=[1])
    assert [file[:3] for file in one.train.files] == ["n01", "n01"]
    assert one.test.targets.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mnist-5k", {"random_labels": 1.5}, "must be a share between 0 and 1"),
        ("mnist-5k", {"classes": [0, 0]}, "give different ones of the 10"),
        ("mnist-5k", {"classes": [10]}, "0…9"),
        ("mnist-5k", {"classes": []}, "can't be read"),
        ("mnist-5k", {"size": 4001}, "between 1 and 4,000"),
        ("mnist-5k", {"size": 0}, "between 1 and 4,000"),
        ("mnist-5k", {"vocab": 300}, "mnist-5k takes no option 'vocab'"),
        ("mnist-5k+sise=5", {}, "Did you mean 'size'"),
        ("mnist-5k+size=many", {}, "can't be read; write such as"),
        ("mnist-5k+image_size=28", {}, "takes no option 'image_size'"),
        ("imagenet+image_size=big", {}, "write image_size=NUMBER"),
    ],
)
@pytest.mark.usefixtures("at_once")
def test_changes_that_make_no_sense_are_refused(tmp_path, name, options, message):
    with pytest.raises(OptionError, match=message):
        data.load(name, tmp_path, **options)


def test_a_path_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"no data set at .*nowhere"):
        data.load(tmp_path / "nowhere")


def test_a_bare_name_of_a_file_here_is_told_how_to_write_it(tmp_path, monkeypatch):
    (tmp_path / "code.txt").write_text("Some words.\n" * 30)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LAYERSCOPE_DATA", raising=False)
    with pytest.raises(OptionError, match=r"no data set 'code\.txt'; .* write \./code\.txt"):
        data.load("code.txt")
    assert data.load("./code.txt").name == "code"
    with pytest.raises(OptionError, match="There is: mnist-5k"):
        data.load("")


@pytest.mark.parametrize("name", [n for n, s in data.SOURCES.items() if not s.embedded])
def test_every_missing_set_says_how_to_get_it(tmp_path, name):
    source = data.SOURCES[name]
    for ask in (source.locate, lambda root: data.load(name, root)):
        with pytest.raises(DataError) as caught:
            ask(tmp_path)
        assert source.how_to_get in str(caught.value)


def test_encoded_images_are_told_apart():
    made = [encoded(pixels(0)), encoded(pixels(1), "JPEG")]
    assert parquet.EncodedImages(made, torch.zeros(2), ()).lossy
    assert not parquet.EncodedImages(made[:1], torch.zeros(1), ()).lossy
