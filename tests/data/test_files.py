"""IDX files, arrays, npz files and image folders: what is read is right, and bad data is refused by name."""

import errno
import gzip
import io
import os
import re
import shutil
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.data_files import (
    OFFICIAL,
    cut,
    grey,
    idx_bytes,
    needs_official,
    png,
    refused,
    toy_images,
    toy_labels,
    write_idx,
)
from robustlens import data
from robustlens.data import pixels, splits


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("mark", ["-", "."])
def test_idx_files_are_read_under_all_their_usual_names(tmp_path: Path, mark: str, packed: bool) -> None:
    made = data.load(f"idx:{write_idx(tmp_path, mark, packed)}", validation=0)
    assert np.array_equal(made.train.images[:, 0], toy_images(8))
    assert np.array_equal(made.test.images[:, 0], toy_images(4, seed=1))
    assert made.train.labels.tolist() == [0, 1] * 4
    assert made.classes == ("0", "1")


@pytest.mark.parametrize("packed", [True, False])
def test_gzip_is_known_by_the_content_of_an_idx_file_and_not_by_its_name(
    tmp_path: Path, packed: bool
) -> None:
    folder = write_idx(tmp_path, packed=packed)
    for path in list(folder.iterdir()):
        path.rename(path.with_suffix("") if packed else path.with_name(f"{path.name}.gz"))
    assert np.array_equal(data.load(f"idx:{folder}", validation=0).train.images[:, 0], toy_images(8))


@pytest.mark.parametrize("reader", ["folder", "idx", "npz", "packed"])
def test_a_path_that_no_system_takes_is_one_line(reader: str) -> None:
    refused(
        "^~nobody-here/x: no home of such a user, expected a path",
        lambda: data.load(f"{reader}:~nobody-here/x"),
    )
    refused("^a+: cannot be read", lambda: data.load(f"{reader}:{5000 * 'a'}"))
    refused("^~nobody-here: no home of", lambda: data.load("cifar10", data_dir="~nobody-here"))
    refused("^a+: cannot be read", lambda: data.load("cifar10", data_dir=5000 * "a"))


def repack(change: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    return lambda content: gzip.compress(change(gzip.decompress(content)))


IDX_DAMAGE = {
    "truncated gzip": ("train-images-idx3-ubyte.gz", cut, "cannot be read"),
    "no gzip": ("t10k-images-idx3-ubyte.gz", lambda _: b"<html>not found</html>", "cannot be read"),
    "flipped byte": (
        "t10k-images-idx3-ubyte.gz",
        lambda c: c[:40] + bytes([c[40] ^ 255]) + c[41:],
        "cannot be read",
    ),
    "truncated content": (
        "train-images-idx3-ubyte.gz",
        repack(cut),
        r"expected 8x4x4 = 128 as its header says",
    ),
    "too much content": (
        "train-labels-idx1-ubyte.gz",
        repack(lambda c: c + b"\0"),
        r"holds more than 8 bytes of labels",
    ),
    "wrong magic": (
        "t10k-labels-idx1-ubyte.gz",
        repack(lambda c: b"\0\0\x0d\1" + c[4:]),
        r"starts with 00000d01",
    ),
    "images for labels": (
        "t10k-labels-idx1-ubyte.gz",
        lambda _: gzip.compress(idx_bytes(toy_images(4))),
        "00000803",
    ),
    "empty": ("train-labels-idx1-ubyte.gz", lambda _: gzip.compress(b""), "starts with nothing"),
    "no rows": (
        "t10k-labels-idx1-ubyte.gz",
        lambda _: gzip.compress(idx_bytes(toy_labels(0))),
        "holds 0 labels",
    ),
}


@pytest.mark.parametrize("damage", IDX_DAMAGE)
def test_a_damaged_idx_file_is_named(tmp_path: Path, damage: str) -> None:
    name, change, line = IDX_DAMAGE[damage]
    path = write_idx(tmp_path) / name
    path.write_bytes(change(path.read_bytes()))
    refused(rf"{re.escape(str(path))}.*{line}", lambda: data.load(f"idx:{tmp_path}"))


def test_a_missing_idx_file_is_named(tmp_path: Path) -> None:
    (write_idx(tmp_path) / "t10k-labels-idx1-ubyte.gz").unlink()
    refused(r"no t10k-labels-idx1-ubyte\.gz", lambda: data.load(f"idx:{tmp_path}"))
    refused(r"no train-images-idx3-ubyte\.gz", lambda: data.load(f"idx:{tmp_path / 'nowhere'}"))


def test_an_empty_split_is_refused(tmp_path: Path) -> None:
    folder = write_idx(tmp_path)
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx_bytes(toy_images(0))))
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(toy_labels(0))))
    refused(r"t10k-labels-idx1-ubyte\.gz: holds no images", lambda: data.load(f"idx:{folder}"))


@needs_official
def test_corrupted_copies_of_the_official_files_are_named(tmp_path: Path) -> None:
    for path in OFFICIAL.glob("t10k-*"):
        for stem in ("train", "t10k"):
            shutil.copyfile(path, tmp_path / path.name.replace("t10k", stem))
    assert len(data.load("fashion_mnist", data_dir=tmp_path, test_limit=100).train) == 9000
    victim = tmp_path / "t10k-images-idx3-ubyte.gz"
    victim.write_bytes(victim.read_bytes()[:1_000_000])
    refused(
        rf"{re.escape(str(victim))}: cannot be read", lambda: data.load("fashion_mnist", data_dir=tmp_path)
    )


def load_arrays(**changed: Any) -> splits.Splits:
    given = {
        "x_train": toy_images(6),
        "y_train": toy_labels(6),
        "x_test": toy_images(2),
        "y_test": toy_labels(2),
    }
    return data.from_tensors(**(given | changed), validation=0)


@pytest.mark.parametrize("channels", [1, 3])
def test_both_channel_layouts_and_both_kinds_of_array_give_the_same_images(channels: int) -> None:
    first = toy_images(6, (channels, 4, 5))
    test = toy_images(2, (channels, 4, 5))
    layouts = (first, np.moveaxis(first, 1, 3), torch.from_numpy(first), torch.from_numpy(first).int())
    for layout in layouts:
        made = load_arrays(x_train=layout, x_test=test)
        assert np.array_equal(made.train.images, first)
        assert made.train.images.is_contiguous()


def test_floats_in_0_1_become_the_nearest_byte() -> None:
    exact = np.arange(256, dtype=np.float64).reshape(1, 16, 16).repeat(6, 0) / 255
    for kind in (np.float64, np.float32, np.float16):
        made = load_arrays(x_train=exact.astype(kind), x_test=exact[:2])
        assert made.train.images[0].flatten().tolist() == list(range(256))
    near = np.array([0.0, 0.4, 0.6, 254.6, 255.0]).reshape(1, 1, 5).repeat(6, 0) / 255
    assert load_arrays(x_train=near, x_test=near[:2]).train.images[0].flatten().tolist() == [
        0,
        0,
        1,
        255,
        255,
    ]


def test_the_splits_do_not_share_memory_with_the_arrays() -> None:
    images = toy_images(6)
    made = load_arrays(x_train=images)
    before = made.train.images.clone()
    images[:] = 0
    assert torch.equal(made.train.images, before)


def test_keras_labels_of_shape_n_1_and_named_classes_are_taken() -> None:
    made = load_arrays(y_train=toy_labels(6)[:, None].astype(np.int32), classes=("cat", "dog", "never seen"))
    assert made.train.labels.tolist() == [0, 1] * 3
    assert made.num_classes == 3


def with_value(value: float) -> np.ndarray:
    images = np.zeros((6, 4, 4), dtype=np.float32)
    images[3, 2, 1] = value
    return images


BAD_ARRAYS: dict[str, tuple[dict[str, Any], str]] = {
    "NaN": ({"x_train": with_value(float("nan"))}, r"arrays: x_train: holds NaN"),
    "infinity": ({"x_train": with_value(float("inf"))}, r"x_train: holds NaN or infinity"),
    "floats to 255": (
        {"x_train": with_value(255.0)},
        r"x_train: pixels run 0\.\.255, expected floats in \[0, 1\]",
    ),
    "normalised": ({"x_train": with_value(-0.5)}, r"pixels run -0\.5\.\.0"),
    "too large": (
        {"x_test": np.full((2, 4, 4), 256)},
        r"x_test: pixels run 0\.\.256, expected integers in 0\.\.255",
    ),
    "one dimension": ({"x_train": np.zeros(6)}, r"x_train: shape \(6,\), expected"),
    "two channels": ({"x_train": np.zeros((6, 2, 4, 4))}, r"shape \(6, 2, 4, 4\), expected 1 or 3 channels"),
    "no pixels": ({"x_train": np.zeros((6, 0, 4))}, r"shape \(6, 0, 4\)"),
    "booleans": ({"x_train": np.zeros((6, 4, 4), dtype=bool)}, r"x_train: bool, expected integers or floats"),
    "objects": ({"x_train": np.array([None] * 6)}, r"x_train: object, expected integers or floats"),
    "float8": ({"x_train": torch.zeros(6, 4, 4).to(torch.float8_e5m2)}, r"x_train: is no array"),
    "sparse": ({"x_train": torch.zeros(6, 4, 4).to_sparse()}, r"x_train: is no array"),
    "without values": (
        {"y_train": torch.zeros(6, dtype=torch.int64, device="meta")},
        r"y_train: is no array",
    ),
    "ragged": ({"x_train": [[1, 2], [3]]}, r"x_train: is no array"),
    "another count": ({"y_train": toy_labels(5)}, r"x_train: 6 images, but arrays: y_train holds 5 labels"),
    "float labels": ({"y_train": np.zeros(6)}, r"y_train: float64, expected integer labels"),
    "one-hot labels": ({"y_train": np.eye(6, dtype=int)}, r"y_train: shape \(6, 6\), expected one label"),
    "labels from 1": ({"y_train": toy_labels(6) + 1}, r"y_train: labels run 1\.\.2 .* renumber them from 0"),
    "a gap": ({"y_train": np.array([0, 0, 1, 1, 255, 255])}, r"labels run 0\.\.255 with 3 different values"),
    "negative labels": ({"y_test": np.array([-1, 0])}, r"y_test: labels run -1\.\.0, expected 0\.\.1"),
    "label too large": (
        {"y_test": np.array([0, 2])},
        r"y_test: labels run 0\.\.2, expected 0\.\.1 \(2 classes\)",
    ),
    "empty": ({"x_test": toy_images(0), "y_test": toy_labels(0)}, r"y_test: holds no images"),
    "sizes": ({"x_test": toy_images(2, (5, 5))}, r"images are 4x4 and 5x5"),
    "a class in another encoding": (
        {"classes": ("cat", "caf\udce9")},
        r"y_train: class 1 is named 'caf\\udce9', expected Unicode text; rename it",
    ),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_bad_arrays_are_refused(case: str) -> None:
    changed, line = BAD_ARRAYS[case]
    refused(line, lambda: load_arrays(**changed))


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def write_npz(path: Path, **changed: Any) -> Path:
    given = {
        "x_train": toy_images(6),
        "y_train": toy_labels(6),
        "x_test": toy_images(2),
        "y_test": toy_labels(2),
    }
    np.savez_compressed(path, **{key: value for key, value in (given | changed).items() if value is not None})
    return path


def encrypted(content: bytes) -> bytes:
    """A zip file whose members say that they are encrypted, as one flipped bit makes them."""
    changed = bytearray(content)
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = content.find(mark)
        while place >= 0:
            changed[place + offset] |= 1
            place = content.find(mark, place + 4)
    return bytes(changed)


def test_an_npz_file_is_read(tmp_path: Path) -> None:
    made = data.load(f"npz:{write_npz(tmp_path / 'toy.npz')}", validation=0)
    assert np.array_equal(made.train.images[:, 0], toy_images(6))
    assert made.test.labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (lambda path: path.write_bytes(cut(path.read_bytes())), r"toy\.npz: is no complete \.npz file"),
        (lambda path: path.write_bytes(b""), r"toy\.npz: is no complete \.npz file"),
        (lambda path: path.write_bytes(npy(toy_images(2))), r"toy\.npz: is no complete \.npz file"),
        (lambda path: path.unlink(), r"toy\.npz: no such file"),
        (lambda path: path.unlink() or path.symlink_to("/dev/zero"), r"toy\.npz: no such file"),
        (
            lambda path: path.write_bytes(encrypted(path.read_bytes())),
            r"toy\.npz: is no complete .*encrypted",
        ),
        (
            lambda path: write_npz(path, x_test=None, y_test=None),
            r"lacks x_test, y_test, found x_train, y_train",
        ),
        (lambda path: write_npz(path, y_test=np.array([{}, {}])), r"holds Python objects"),
        (lambda path: write_npz(path, x_train=with_value(float("nan"))), r"toy\.npz: x_train: holds NaN"),
    ],
)
def test_a_bad_npz_file_is_named(tmp_path: Path, spoil: Callable[[Path], Any], line: str) -> None:
    path = write_npz(tmp_path / "toy.npz")
    spoil(path)
    refused(line, lambda: data.load(f"npz:{path}"))


def write_folder(root: Path, test: str = "test") -> Path:
    for split, per_class in (("train", 3), (test, 1)):
        for label, name in enumerate(("cat", "dog")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(per_class):
                (folder / f"{i}.png").write_bytes(png(grey(100 * label + i)))
    return root


@pytest.mark.parametrize("test", ["test", "val", "valid"])
def test_an_image_folder_is_read_in_order(tmp_path: Path, test: str) -> None:
    root = write_folder(tmp_path, test)
    (root / "train" / "cat" / "notes.txt").write_text("not an image")
    (root / "train" / "cat" / "._0.png").write_text("what macOS leaves behind")
    (root / "train" / "cat" / "deep" / ".ipynb_checkpoints").mkdir(parents=True)
    (root / "train" / "cat" / "deep" / ".ipynb_checkpoints" / "0-checkpoint.png").write_bytes(png(grey(9)))
    made = data.load(f"folder:{root}", validation=0)
    assert made.classes == ("cat", "dog")
    assert made.shape == (1, 3, 4)
    assert made.train.images[:, 0, 0, 0].tolist() == [0, 1, 2, 100, 101, 102]
    assert made.train.labels.tolist() == [0, 0, 0, 1, 1, 1]


def test_linked_images_folders_and_classes_are_read(tmp_path: Path) -> None:
    root, elsewhere = write_folder(tmp_path / "data"), write_folder(tmp_path / "elsewhere")
    (root / "train/cat/more").symlink_to(elsewhere / "train/dog")
    (root / "train/cat/more.png").symlink_to(elsewhere / "test/dog/0.png")
    (root / "train/emu").symlink_to(elsewhere / "train/cat")
    (root / "train/cat/.broken").symlink_to("nowhere")
    made = data.load(f"folder:{root}", validation=0)
    assert made.classes == ("cat", "dog", "emu")
    assert made.train.images[:, 0, 0, 0].tolist() == [0, 1, 2, 100, 101, 102, 100, 100, 101, 102, 0, 1, 2]


@pytest.mark.parametrize(
    "link", ["test", "train", "train/emu", "train/cat/9.png", "train/cat/deep", "test/cat/8.png"]
)
def test_a_link_to_nowhere_is_refused_by_name(tmp_path: Path, link: str) -> None:
    """What git-annex and DVC leave where the content was not fetched; `val` would stand in for a lost `test`."""
    root = write_folder(tmp_path, "test" if link != "test" else "val")
    if link == "train":
        shutil.rmtree(root / "train")
    (root / link).symlink_to(root / "nowhere")
    refused(
        rf"{re.escape(str(root / link))}: links to nothing \(.*\), expected a file or a folder; fetch "
        "what it links to, or remove the link",
        lambda: data.load(f"folder:{root}"),
    )


@pytest.mark.parametrize("around", ["train/cat/deep", "train/cat", "train", "."])
def test_a_link_to_a_folder_around_it_is_refused(tmp_path: Path, around: str) -> None:
    root = write_folder(tmp_path)
    (root / "train/cat/deep").mkdir()
    (root / "train/cat/deep/more").symlink_to(root / around)
    refused(
        r"cat/deep/more(/train)?: leads back to \S*, in which it lies; remove the link",
        lambda: data.load(f"folder:{root}"),
    )


def test_a_folder_that_cannot_be_listed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its images would be missing without a word."""
    root = write_folder(tmp_path)
    own = os.scandir

    def scandir(path: Any) -> Any:
        if str(path).endswith("dog"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return own(path)

    monkeypatch.setattr(os, "scandir", scandir)
    refused(r"train/dog: cannot be read \(Permission denied\); mend", lambda: data.load(f"folder:{root}"))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems name files in Unicode alone")
def test_a_class_folder_in_another_encoding_is_refused_by_name(tmp_path: Path) -> None:
    """No file of ours could hold the name."""
    root = write_folder(tmp_path / "data")
    (root / "train/dog").rename(root / "train/caf\udce9")
    (root / "test/dog").rename(root / "test/caf\udce9")
    line = r"data/train: class 0 is named 'caf\\udce9', expected Unicode text; rename it"
    refused(line, lambda: data.load(f"folder:{root}"))
    refused(line, lambda: data.pack(f"folder:{root}", tmp_path / "pack"))
    assert not (tmp_path / "pack").exists()


def test_palette_and_alpha_images_become_rgb_and_grey_ones_join_them(tmp_path: Path) -> None:
    root = write_folder(tmp_path)
    red = Image.new("RGBA", (4, 3), (200, 10, 20, 128))
    palette = Image.new("RGB", (4, 3), (1, 2, 3)).quantize(4)
    palette.info["transparency"] = bytes([0, 255])
    (root / "train" / "cat" / "1.png").write_bytes(png(red))
    (root / "train" / "cat" / "2.png").write_bytes(png(palette))
    made = data.load(f"folder:{root}", validation=0)
    assert made.train.images[:4, :, 0, 0].tolist() == [[0, 0, 0], [200, 10, 20], [1, 2, 3], [100, 100, 100]]
    assert made.test.images.shape == (2, 3, 3, 4)


def test_grey_with_alpha_and_bilevel_images_stay_grey() -> None:
    files = [png(Image.new("LA", (2, 2), (7, 9))), png(Image.new("1", (2, 2), 1)), png(grey(5, (2, 2)))]
    assert pixels.decode(files, 3, str).tolist() == [[[[value] * 2] * 2] for value in (7, 255, 5)]


def png16(colour_type: int, channels: int) -> bytes:
    """A PNG of 4x3 pixels with 16 bits a channel, each 300, which Pillow does not write in colour."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 3, 16, colour_type, 0, 0, 0))
    rows = zlib.compress(3 * (b"\0" + (300).to_bytes(2, "big") * 4 * channels))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def tiff16() -> bytes:
    """A TIFF of 4x3 RGB pixels with 16 bits a channel."""
    entries = [(256, 4), (257, 3), (258, 122), (259, 1), (262, 2), (273, 128), (277, 3), (278, 3), (279, 72)]
    fields = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    fields = fields.replace(struct.pack("<HHII", 258, 4, 1, 122), struct.pack("<HHII", 258, 3, 3, 122))
    return (
        b"II*\0"
        + struct.pack("<IH", 8, 9)
        + fields
        + bytes(4)
        + struct.pack("<4H", 16, 16, 16, 0)
        + bytes(72)
    )


DEEP = {
    "grey": (png16(0, 1), "I;16"),
    "grey with alpha": (png16(4, 2), "LA;16B"),
    "colour": (png16(2, 3), "RGB;16B"),
    "colour with alpha": (png16(6, 4), "RGBA;16B"),
    "TIFF": (tiff16(), "RGB;16L"),
    "PPM": (b"P6\n4 3\n65535\n" + bytes(72), "RGB up to 65535"),
    "PPM of text": (b"P3\n4 3\n256\n" + b"7 " * 36, "RGB up to 256"),
}


@pytest.mark.parametrize("kind", DEEP)
def test_images_of_more_than_8_bits_a_channel_are_refused(kind: str) -> None:
    content, mode = DEEP[kind]
    refused(
        f"one: image mode {mode}, expected 8 bits a channel; convert it",
        lambda: pixels.decode([content], 1, lambda _: "one"),
    )


@pytest.mark.parametrize(
    "error", [RuntimeError("bad AVIF"), NotImplementedError("DDS"), IndexError(), KeyError(1)]
)
def test_whatever_a_decoder_raises_is_about_the_image(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Its plug-ins raise more than it says."""

    def convert(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(Image.Image, "convert", convert)
    file = png(Image.new("RGBA", (4, 3)))
    refused(
        r"one: cannot be read as an image \(.+\); replace it",
        lambda: pixels.decode([file], 1, lambda _: "one"),
    )


def test_memory_that_ran_out_is_not_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def convert(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(Image.Image, "convert", convert)
    with pytest.raises(MemoryError):
        pixels.decode([png(Image.new("RGBA", (4, 3)))], 1, str)


def test_images_of_fewer_bits_a_channel_are_read() -> None:
    """Among them a BMP of 16 bits a pixel, five or six of them a channel."""
    rows = struct.pack("<HH", 0xF800, 0x001F)
    masks = struct.pack("<III", 0xF800, 0x7E0, 0x1F)
    bmp = b"BM" + struct.pack("<IIIIiiHHIIiiII", 70, 0, 66, 40, 2, 1, 1, 16, 3, 4, 0, 0, 0, 0) + masks + rows
    assert pixels.decode([bmp], 1, str)[0, :, 0].T.tolist() == [[255, 0, 0], [0, 0, 255]]
    assert pixels.decode([b"P6\n1 1\n255\n" + bytes([1, 2, 3])], 1, str).flatten().tolist() == [1, 2, 3]
    for black_and_white in (b"P1\n2 1\n0 1\n", b"P4\n2 1\n\x40"):
        assert pixels.decode([black_and_white], 1, str).flatten().tolist() == [255, 0]
    assert pixels.decode([b"P6\n1 1\n5\n" + bytes([1, 0, 5])], 1, str).flatten().tolist() == [51, 0, 255]


FOLDER_DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "unreadable": (
        lambda root: (root / "train/dog/1.png").write_bytes(b"nonsense"),
        r"dog/1\.png: cannot be read",
    ),
    "truncated": (
        lambda root: (root / "train/dog/1.png").write_bytes(png(grey(0, (64, 64)))[:60]),
        r"dog/1\.png: cannot be read",
    ),
    "another size": (
        lambda root: (root / "train/dog/1.png").write_bytes(png(grey(0, (5, 3)))),
        r"dog/1\.png: image of 3x5 pixels, expected 3x4 as in .*cat/0\.png",
    ),
    "16 bits": (
        lambda root: Image.new("I;16", (4, 3)).save(root / "train/dog/1.png"),
        r"dog/1\.png: image mode I;16, expected 8 bits",
    ),
    "no test": (lambda root: shutil.rmtree(root / "test"), r"no folder test or val in it"),
    "no train": (lambda root: shutil.rmtree(root / "train"), r"no folder train in it"),
    "an empty class": (lambda root: (root / "train/emu").mkdir(), r"emu: holds no images"),
    "an unknown class": (lambda root: (root / "test/emu").mkdir(), r"test/emu: not a class"),
    "no test images": (
        lambda root: list(map(Path.unlink, (root / "test").rglob("*.png"))),
        r"test: holds no images",
    ),
    "no classes": (
        lambda root: list(map(shutil.rmtree, (root / "train" / name for name in ("cat", "dog")))),
        r"no class folders",
    ),
}


@pytest.mark.parametrize("damage", FOLDER_DAMAGE)
def test_a_bad_image_folder_is_refused_by_name(tmp_path: Path, damage: str) -> None:
    spoil, line = FOLDER_DAMAGE[damage]
    root = write_folder(tmp_path)
    spoil(root)
    refused(line, lambda: data.load(f"folder:{root}", validation=0))
