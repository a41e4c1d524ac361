"""Files that unpack to more than memory holds are refused by name, before they are unpacked."""

import gzip
import io
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from robustlens import data, machine
from robustlens.data import arrays, pixels, sizes
from robustlens.errors import DataError, ModelError


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of two megabytes, of which images may take one."""
    monkeypatch.setattr(sizes, "memory", lambda: 2 << 20)


def npy(shape: tuple[int, ...], content: bytes = b"") -> bytes:
    """A file of bytes as NumPy writes it, whatever its header says."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return file.getvalue() + content


def write_npz(path: Path, x_train: bytes) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for key in ("x_train", "y_train", "x_test", "y_test"):
            archive.writestr(f"{key}.npy", x_train if key == "x_train" else npy((4,), bytes(4)))


def test_an_npz_that_unpacks_to_too_much_is_refused(tmp_path: Path, little_memory: None) -> None:
    write_npz(tmp_path / "bomb.npz", npy((2, 1024, 1024), bytes(2 << 20)))
    assert (tmp_path / "bomb.npz").stat().st_size < 10_000
    with pytest.raises(
        DataError, match=r"bomb\.npz: holds 0\.0021 GB unpacked, expected at most 0\.00105 GB"
    ):
        data.load(f"npz:{tmp_path / 'bomb.npz'}")


def test_an_npz_whose_header_lies_is_refused(tmp_path: Path, little_memory: None) -> None:
    write_npz(tmp_path / "lie.npz", npy((1 << 40, 28, 28), bytes(100)))
    with pytest.raises(DataError, match=r"lie\.npz: holds .* GB unpacked"):
        arrays.load_npz(tmp_path / "lie.npz")


@pytest.mark.parametrize("says", [4, 1 << 31])
def test_of_a_gzip_no_more_is_unpacked_than_its_header_says(
    tmp_path: Path, little_memory: None, says: int
) -> None:
    path = tmp_path / "train-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(struct.pack(">HBBI", 0, 8, 1, says) + bytes(8 << 20)))
    with pytest.raises(DataError, match=r"holds more than 4 bytes of labels|GB unpacked, expected at most"):
        arrays.read_idx(path, "labels")


def png(width: int, height: int) -> bytes:
    """A PNG file that says how large it is, and has no more."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    size = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", size)
        + chunk(b"IDAT", zlib.compress(bytes(9)))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [4097, 10_000, 14_000, 60_000])
def test_an_image_too_large_to_train_on_is_refused_before_it_is_decoded(side: int) -> None:
    with pytest.raises(DataError, match=r"bomb\.png"):
        pixels.decode([png(side, side)], 1, lambda _: "bomb.png")


def test_many_images_that_do_not_fit_are_refused(little_memory: None) -> None:
    small = io.BytesIO()
    Image.new("L", (64, 64)).save(small, "PNG")
    with pytest.raises(DataError, match="GB unpacked"):
        pixels.decode([small.getvalue()], 1000, lambda i: f"image {i}")
    assert pixels.decode([small.getvalue()], 1, str).shape == (1, 1, 64, 64)


def test_a_checkpoint_that_unpacks_to_too_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from robustlens.models import checkpoints

    monkeypatch.setattr(checkpoints, "memory", lambda: 2 << 20)
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(2 << 20))
    with pytest.raises(ModelError, match=r"bomb\.pt: holds .* GB unpacked"):
        checkpoints.read(tmp_path / "bomb.pt")


def test_this_machine_has_memory() -> None:
    assert 1 << 28 < machine.memory() < 1 << 50
