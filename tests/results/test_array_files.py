"""Arrays of sealed files: read as safetensors reads them, from a file that is verified once."""

import json
import os

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import save_file

from robustlens.errors import StateError
from robustlens.results import array_files, files
from robustlens.results.array_files import ArrayFile, write_arrays

TYPES = ["?", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8", "c8"]
SHAPES = [(), (0,), (3, 0, 2), (1,), (5,), (2, 3, 4)]


def drawn(kind, shape):
    return (100 * np.random.default_rng(0).random(shape)).astype(kind)


@pytest.fixture
def counted(monkeypatch):
    """Paths whose seals were checked."""
    seen, read_header = [], array_files.read_header
    monkeypatch.setattr(array_files, "read_header", lambda path: seen.append(path) or read_header(path))
    return seen


def test_arrays_of_every_type_and_shape_are_as_safetensors_reads_them(tmp_path, counted):
    path = tmp_path / "x.safetensors"
    arrays = {f"{kind}/{shape}": drawn(kind, shape) for kind in TYPES for shape in SHAPES}
    seal = write_arrays(path, arrays)
    found, wanted = ArrayFile(path, seal), load_file(path)
    assert list(found) == sorted(wanted)
    for name, array in wanted.items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
        assert found[name].tobytes() == array.tobytes()
        assert found[name].flags.writeable
    assert found.under("f4/")["(5,)"].tobytes() == wanted["f4/(5,)"].tobytes()
    assert found.get("f4") is None
    assert counted == [path], "verified once"


def test_another_file_in_its_place_is_verified_anew(tmp_path, counted):
    path = tmp_path / "x.safetensors"
    seal = write_arrays(path, {"a": np.arange(4), "b": np.arange(7)})
    sealed, free = ArrayFile(path, seal), ArrayFile(path)
    assert sealed["b"].sum() == free["b"].sum() == 21
    write_arrays(path, {"b": np.arange(9)})
    assert free["b"].sum() == 36
    assert "a" not in free
    with pytest.raises(StateError, match="does not belong to the result beside it"):
        sealed["b"]
    assert len(counted) == 4


@pytest.mark.parametrize("harm", ["cut", "flipped", "gone"])
def test_harm_after_the_first_look_is_seen(tmp_path, harm):
    path = tmp_path / "x.safetensors"
    arrays = ArrayFile(path, write_arrays(path, {"a": np.arange(100.0)}))
    assert arrays["a"][-1] == 99
    content = path.read_bytes()
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes(content[:-8] if harm == "cut" else content[:-1] + bytes([content[-1] ^ 1]))
        os.utime(path, ns=(1, 1))
    with pytest.raises(StateError, match=r"x\.safetensors"):
        arrays["a"]


def test_a_type_that_numpy_lacks_is_named_and_other_arrays_are_read(tmp_path):
    arrays = {"a": torch.ones(3, dtype=torch.bfloat16), "b": torch.ones(3)}
    save_file(arrays, tmp_path / "x.safetensors")
    found = ArrayFile(tmp_path / "x.safetensors")
    assert found["b"].sum() == 3
    with pytest.raises(StateError, match="a is of type BF16"):
        found["a"]


def test_a_file_that_is_replaced_while_its_seal_is_checked_is_not_read(tmp_path, monkeypatch):
    path, read_header = tmp_path / "x.safetensors", array_files.read_header
    write_arrays(path, {"a": np.zeros(3)})

    def replaced(path):
        write_arrays(path, {"a": np.ones(3)})
        return read_header(path)

    monkeypatch.setattr(array_files, "read_header", replaced)
    with pytest.raises(StateError, match="while it was read"):
        ArrayFile(path)["a"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="POSIX only")
def test_a_pipe_is_not_waited_for_and_a_file_out_of_reach_is_not_called_damaged(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "."):
        with pytest.raises(StateError, match="is no plain file"):
            ArrayFile(tmp_path / name)["a"]
    write_arrays(tmp_path / "x.safetensors", {"a": np.zeros(3)})

    def refused(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(tmp_path), "open", refused)
    with pytest.raises(StateError, match="Permission denied") as caught:
        ArrayFile(tmp_path / "x.safetensors")["a"]
    assert "delete" not in str(caught.value)


LIE = '"seal":"' + "a" * 64 + '"'
LONG = {"groups": ["x" * 99] * 1000}


def in_the_old_order(content):
    """The same file as it was written before: the header first, and behind it the seal."""
    size = int.from_bytes(content[:8], "little")
    entries = json.loads(content[8 : 8 + size])
    seal = entries["__metadata__"].pop("seal")
    entries["__metadata__"]["seal"] = files.ZEROS
    head = json.dumps(entries, separators=(",", ":")).encode().ljust(size)
    assert len(head) == size
    written = files.sealed(content[:8] + head + content[8 + size :], files.SEALED_TENSORS)
    assert files.seal_of(written) != seal  # other bytes
    return written


@pytest.mark.parametrize(
    "header", [{}, LONG, {"note": LIE}, {LIE: LIE}], ids=["short", "long", "lie", "lies"]
)
@pytest.mark.parametrize("order", ["new", "old"])
def test_a_seal_is_read_behind_a_header_of_any_length_and_text(tmp_path, header, order):
    path = tmp_path / "x.safetensors"
    write_arrays(path, {"a": np.arange(3), LIE: np.ones(2)}, header)
    if order == "old":
        path.write_bytes(in_the_old_order(path.read_bytes()))
    read = array_files.read_header(path)
    assert {key: read.values[key] for key in header} == header
    assert read.seal == array_files.metadata_of(path)["seal"]
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    with pytest.raises(StateError, match="does not have its seal"):
        array_files.read_header(path)


def test_text_in_an_array_is_no_seal(tmp_path):
    for lie in (LIE, LIE.replace(":", ": ") + "}"):
        save_file({"a": torch.tensor(list(lie.encode()), dtype=torch.uint8)}, tmp_path / "x.safetensors")
        assert array_files.read_header(tmp_path / "x.safetensors").seal is None
