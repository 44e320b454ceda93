import os

import pytest

from keras_genmnist import files
from keras_genmnist.errors import UsageError


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

    monkeypatch.setattr("pathlib.Path.write_bytes", refused)
    with pytest.raises(UsageError, match=r"there\.txt: Permission denied"):
        files.write(path, b"")
    assert path.read_text() == "kept"
