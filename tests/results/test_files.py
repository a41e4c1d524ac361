"""Files: whole or not at all, sealed to the last bit, and one line for whatever is wrong with them."""

import json
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustlens.errors import ResourceError, StateError
from robustlens.results import array_files, files, leftovers


def flipped(content: bytes, bit: int) -> bytes:
    """`content` with one bit changed."""
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << (bit % 8)
    return bytes(changed)


def test_a_write_replaces_the_whole_file_or_nothing(tmp_path, monkeypatch):
    path = tmp_path / "a" / "file.json"
    files.write_atomic(path, b"first")
    assert path.read_bytes() == b"first"
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode, "others may read it as any other file"

    def full_disk(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(ResourceError, match="No space left") as caught:
        files.write_atomic(path, b"second")
    assert caught.value.exit_code == 5
    assert path.read_bytes() == b"first"
    assert list(path.parent.iterdir()) == [path], "a temporary file was left"


def test_json_has_no_nan(tmp_path):
    files.write_json(
        tmp_path / "a.json", {"a": float("nan"), "b": [np.float32(1.5), np.int64(2), float("inf")]}
    )
    assert files.read_json(tmp_path / "a.json", "") == {"a": None, "b": [1.5, 2, None]}


def test_text_that_is_no_unicode_is_escaped(tmp_path):
    """A file name in another encoding, in an error for instance, must not make the file unreadable."""
    files.write_json(tmp_path / "a.json", {"a": ["caf\udce9 café"], "caf\udce9": 1})
    assert files.read_json(tmp_path / "a.json", "") == {"a": ["caf\\udce9 café"], "caf\\udce9": 1}


def test_a_seal_is_the_digest_of_the_file_with_its_digits_zeroed(tmp_path):
    import hashlib

    files.write_json(tmp_path / "a.json", {"a": 1})
    text = (tmp_path / "a.json").read_text()
    seal = json.loads(text)["seal"]
    assert list(json.loads(text)) == ["format", "a", "seal"], "the seal is the last key"
    assert hashlib.sha256(text.replace(seal, "0" * 64).encode()).hexdigest() == seal


@settings(max_examples=60, deadline=None)
@given(bit=st.integers(min_value=0))
def test_no_flipped_bit_of_a_json_file_passes(bit):
    content = files.sealed_json({"eps": 0.1, "name": "a run", "values": [1.0, 2.5, None]})
    assert files.parsed_json(content, "", "a.json")["eps"] == 0.1
    with pytest.raises(StateError, match=r"a\.json") as caught:
        files.parsed_json(flipped(content, bit % (8 * len(content))), "", "a.json")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("region", ["length", "header", "tensors"])
def test_no_flipped_bit_of_an_array_file_passes(tmp_path, region):
    path = tmp_path / "a.safetensors"
    seal = array_files.write_arrays(path, {"x": np.arange(50.0), "name": np.arange(3)})
    content = path.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    first, last = {"length": (0, 8), "header": (8, header), "tensors": (header, len(content))}[region]
    assert array_files.ArrayFile(path, seal)["name"].tolist() == [0, 1, 2]
    for bit in np.random.default_rng(0).choice(
        8 * (last - first), min(200, 8 * (last - first)), replace=False
    ):
        path.write_bytes(flipped(content, 8 * first + int(bit)))
        with pytest.raises(StateError, match=r"a\.safetensors"):
            _ = array_files.ArrayFile(path, seal)["x"]


def test_arrays_of_another_result_are_refused(tmp_path):
    seal = array_files.write_arrays(tmp_path / "a.safetensors", {"x": np.zeros(3)})
    array_files.write_arrays(tmp_path / "a.safetensors", {"x": np.ones(3)})
    with pytest.raises(StateError, match="does not belong to the result beside it"):
        _ = array_files.ArrayFile(tmp_path / "a.safetensors", seal)["x"]


def test_arrays_are_read_when_asked_for_and_verified_once(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    seal = array_files.write_arrays(
        path, {"test/x": np.arange(3), "test/y": np.ones((2, 3)).T, "train/x": np.zeros(1)}
    )
    arrays = array_files.ArrayFile(path, seal)
    reads = []
    monkeypatch.setattr(array_files, "read_bytes", lambda file: reads.append(file) or file.read_bytes())
    test = arrays.under("test/")
    assert (list(test), len(test), dict(arrays).keys()) == (["x", "y"], 2, {"test/x", "test/y", "train/x"})
    np.testing.assert_array_equal(test["y"], np.ones((3, 2)))
    assert reads == [path]
    with pytest.raises(KeyError):
        _ = test["z"]
    assert "z" not in test


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"[1, 2]", b"\xff", b"[" * 100_000, b'{"format": "x"}', b'{"format": 0}']
)
def test_damaged_json_is_one_line_with_the_file(tmp_path, damage):
    (tmp_path / "run.json").write_bytes(damage)
    with pytest.raises(StateError, match=r"run\.json") as caught:
        files.read_json(tmp_path / "run.json", "run")
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 7


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(StateError, match=r"run\.json: no such file"):
        files.read_json(tmp_path / "run.json", "run")
    with pytest.raises(StateError, match=r"a\.safetensors: no such file"):
        _ = array_files.ArrayFile(tmp_path / "a.safetensors")["x"]


def test_a_newer_format_is_refused_by_name(tmp_path, monkeypatch):
    for module in (files, array_files):
        monkeypatch.setattr(module, "FORMAT", 3)
    files.write_json(tmp_path / "a.json", {"a": 1})
    seal = array_files.write_arrays(tmp_path / "a.safetensors", {"x": np.zeros(3)})
    monkeypatch.undo()
    with pytest.raises(StateError, match=r"a\.json: found format 3, expected at most 2"):
        files.read_json(tmp_path / "a.json", "")
    with pytest.raises(StateError, match=r"a\.safetensors: found format 3, expected at most 2"):
        _ = array_files.ArrayFile(tmp_path / "a.safetensors", seal)["x"]


def test_a_file_of_format_2_without_its_seal_is_refused(tmp_path):
    (tmp_path / "a.json").write_text('{"format": 2, "a": 1}')
    with pytest.raises(StateError, match="does not have its seal"):
        files.read_json(tmp_path / "a.json", "")
    (tmp_path / "a.json").write_text('{"format": 1, "a": 1}')
    assert files.read_json(tmp_path / "a.json", "") == {"a": 1}


def test_sealing_keeps_the_tensors_and_the_header(tmp_path):
    from safetensors.numpy import load_file
    from safetensors.numpy import save as save_tensors

    content = save_tensors({"b": np.arange(4.0), "a": np.array([True])}, metadata={"theirs": "dropped"})
    (tmp_path / "a.safetensors").write_bytes(array_files.sealed_tensors(content, {"recipe": "abc"}))
    assert load_file(tmp_path / "a.safetensors")["b"].tolist() == [0, 1, 2, 3]
    sealed = (tmp_path / "a.safetensors").read_bytes()
    header = array_files.check_tensors(sealed, "a", array_files.metadata_of(tmp_path / "a.safetensors"))
    assert (header.values["recipe"], header.seal) == ("abc", files.seal_of(sealed))


def test_the_file_before_is_kept_where_it_is_asked_for(tmp_path):
    path, previous = tmp_path / "a.bin", tmp_path / "a.previous.bin"
    for content in (b"first", b"second", b"third"):
        files.write_atomic(path, content, previous=previous)
    assert (path.read_bytes(), previous.read_bytes()) == (b"third", b"second")


def test_a_rename_reaches_the_disk_with_its_folder(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr("os.fsync", lambda handle: synced.append(os.fstat(handle).st_ino))
    files.write_atomic(tmp_path / "a.json", b"{}")
    assert synced == [(tmp_path / "a.json").stat().st_ino, tmp_path.stat().st_ino]


def test_a_document_of_another_kind_is_refused(tmp_path):
    files.write_json(tmp_path / "claims.json", {"claims": []}, "claims")
    assert files.read_json(tmp_path / "claims.json", "claims") == {"claims": []}
    (tmp_path / "claims.json").rename(tmp_path / "study.json")
    with pytest.raises(StateError, match=r"study\.json: found a document of kind 'claims', expected 'study'"):
        files.read_json(tmp_path / "study.json", "study")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes with names")
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "run.json")
    with pytest.raises(StateError, match=r"run.json: is no plain file"):
        files.read_bytes(tmp_path / "run.json")


def test_a_file_is_ours_by_its_header_or_its_seal():
    assert array_files.is_ours({"robustlens": "{}"})
    assert array_files.is_ours({"robustlens": "{}", "seal": "x"})
    assert array_files.is_ours({"seal": "0" * 64})
    assert not array_files.is_ours({"seal": "0" * 63})
    assert not array_files.is_ours({"seal": "0" * 65})
    assert not array_files.is_ours({"format": "pt"})


def test_a_seal_is_read_and_what_has_none_is_not_intact():
    content = files.sealed_json({"a": 1})
    assert files.seal_of(content) == json.loads(content)["seal"]
    assert files.is_intact(content)
    assert files.seal_of(b"{}") is None
    assert not files.is_intact(b"{}")


def test_the_header_of_an_array_file_names_the_format_and_fills_eight_bytes(tmp_path):
    for name in ("a", "ab", "abc", "abcd", "abcde", "abcdef", "abcdefg", "abcdefgh"):
        array_files.write_arrays(tmp_path / "a.safetensors", {"x": np.arange(3.0)}, {"name": name})
        content = (tmp_path / "a.safetensors").read_bytes()
        size = int.from_bytes(content[:8], "little")
        assert size % 8 == 0
        assert content[8 + size :] == np.arange(3.0).tobytes()
        header = array_files.read_header(tmp_path / "a.safetensors")
        assert header.values == {"format": 2, "name": name}


def test_the_owner_of_an_array_file_is_checked_by_its_header(tmp_path):
    path = tmp_path / "a.safetensors"
    array_files.ArrayFile(path, "of a result").check_owner()  # missing: found by who asks for an array
    seal = array_files.write_arrays(path, {"x": np.zeros(3)})
    for own in (seal, None):
        array_files.ArrayFile(path, own).check_owner()
    with pytest.raises(StateError, match="does not belong to the result beside it"):
        array_files.ArrayFile(path, "0" * 64).check_owner()


def test_what_a_report_left_is_swept_after_an_hour(tmp_path, monkeypatch):
    now = 1_000_000_000
    monkeypatch.setattr(leftovers.time, "time", lambda: float(now))
    folder = tmp_path / "report"
    (folder / "figures").mkdir(parents=True)
    ages = {
        ".index.html.abcd1234.tmp": 3600,
        "figures/.a.svg.abcd1234": 3599,
        "figures/.b.pdf.abcd1234": 9999,
    }
    for name, age in {**ages, "figures/b.pdf": 9999, ".mine": 9999}.items():
        (folder / name).touch()
        os.utime(folder / name, (now - age, now - age))
    assert leftovers.report_folder(tmp_path, None) == folder
    left = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert left == [".mine", "figures/.a.svg.abcd1234", "figures/b.pdf"]
    assert leftovers.report_folder(tmp_path, tmp_path / "elsewhere") == tmp_path / "elsewhere"
    assert not (tmp_path / "elsewhere").exists()
