import contextlib
import os
import stat

import pytest
import tensorflow as tf

from keras_genmnist import files
from keras_genmnist.errors import Fault, UsageError
from tests import tiny


@pytest.mark.parametrize("path", ["taken/new.txt", "taken/deeper/new.txt"])
def test_write_names_the_file_that_stands_where_a_folder_should_be(tmp_path, path):
    (tmp_path / "taken").write_text("kept")
    with pytest.raises(UsageError, match=f"cannot write .*: {tmp_path}/taken is a file; give a path"):
        files.write(tmp_path / path, b"")
    assert (tmp_path / "taken").read_text() == "kept"


def test_write_tells_what_the_system_says_of_a_file_it_cannot_replace(tmp_path, monkeypatch):
    path = tmp_path / "there.txt"
    path.write_text("kept")

    def refused(*arguments):
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr(os, "replace", refused)
    with pytest.raises(UsageError, match=r"there\.txt: Permission denied"):
        files.write(path, b"new")
    assert path.read_text() == "kept" and os.listdir(tmp_path) == ["there.txt"]


def test_write_to_a_full_disk_is_a_fault_that_leaves_nothing(tmp_path):
    (tmp_path / "there.txt").write_text("kept")
    for path in (tmp_path / "there.txt", tmp_path / "new" / "deeper" / "there.txt"):
        with tiny.full_disk(), pytest.raises(Fault, match=f"cannot write {path}: File too large; make room"):
            files.write(path, b"new")
    assert [path.read_text() for path in tmp_path.rglob("*")] == ["kept"]


def test_write_syncs_the_file_before_it_renames_and_the_folder_after(tmp_path, monkeypatch):
    done = []
    fsync, replace = os.fsync, os.replace

    def synced(descriptor):
        folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        done.append("folder" if folder else f"file of {os.fstat(descriptor).st_size}")
        fsync(descriptor)

    def renamed(*paths, **options):
        done.append("renamed")
        replace(*paths, **options)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    files.write(tmp_path / "new.txt", b"12345")
    assert done == ["file of 5", "renamed", "folder"]


def test_write_takes_the_longest_name_there_is(tmp_path):
    files.write(tmp_path / ("x" * 255), b"new")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"new"]


# What TensorFlow takes for a pattern, and what it does not.
NAMES = ["plain", "a[1]", "a[", "a]", "a*b", "a?b", r"a\b", "a{1,2}", "ü [x]"]


@pytest.mark.parametrize("name", NAMES)
def test_literal_names_a_folder_to_tensorflow(name, tmp_path):
    folder = tmp_path / name
    folder.mkdir()
    value = tf.Variable(3.0)
    with files.literal(folder) as literal:
        tf.train.Checkpoint(value=value).write(f"{literal}/ckpt-1")
    assert {path.name for path in folder.iterdir()} == {"ckpt-1.index", "ckpt-1.data-00000-of-00001"}
    value.assign(0.0)
    with files.literal(folder) as literal:
        tf.train.Checkpoint(value=value).read(f"{literal}/ckpt-1").assert_consumed()
    assert value == 3.0


def test_literal_leaves_a_plain_name_as_it_is_and_nothing_open(tmp_path):
    (tmp_path / "a[1]").mkdir()
    opened = len(os.listdir("/proc/self/fd"))
    with files.literal(tmp_path) as literal:
        assert literal == str(tmp_path)
    with files.literal(tmp_path / "a[1]"):
        pass
    assert len(os.listdir("/proc/self/fd")) == opened


def test_made_removes_what_it_made_where_nothing_was_put(tmp_path):
    with files.made(tmp_path / "a" / "b" / "c"):
        assert (tmp_path / "a" / "b" / "c").is_dir()
    assert list(tmp_path.iterdir()) == []
    with files.made(tmp_path / "a" / "b" / "c"):
        (tmp_path / "a" / "b" / "kept").write_text("")
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "b", "kept"]
    with contextlib.suppress(OSError), files.made(tmp_path / "d" / ("e" * 300)):
        pass
    assert not (tmp_path / "d").exists()
