"""A PostgreSQL server of the machine's own programs, on a free port, for as long as a test needs it."""

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

PROGRAMS = Path("/usr/lib/postgresql")  # Debian's


@contextlib.contextmanager
def server() -> Iterator["Server"]:
    """Starts a server, and skips the test where there is none."""
    folders = [path.parent for path in PROGRAMS.glob("*/bin/initdb")]
    folders += [Path(found).parent for found in [shutil.which("initdb")] if found]
    if not folders:
        pytest.skip("no PostgreSQL here: install it, as by apt-get install postgresql")
    # It refuses to run as root, and its folder must not be below one that nobody else may enter.
    folder = Path(tempfile.mkdtemp(prefix="genmnist-"))
    user = "nobody" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    if os.geteuid() == 0:
        shutil.chown(folder, user)
    found = Server(sorted(folders)[-1], folder, user)
    try:
        found.run("initdb", "--auth=trust", "--no-sync", f"--username={user}", "--pgdata=data")
        found.start()
        yield found
    finally:
        found.stop()
        shutil.rmtree(folder, ignore_errors=True)


class Server:
    """A server that can be stopped and started again."""

    def __init__(self, programs: Path, folder: Path, user: str):
        """
        Args:
          programs: the folder of initdb and pg_ctl.
          folder: of its data; the user's own.
          user: that it runs as.
        """
        self.programs, self.folder, self.user = programs, folder, user
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"postgresql://{user}:secret@127.0.0.1:{self.port}/postgres"

    def run(self, program: str, *arguments: str) -> subprocess.CompletedProcess:
        """Runs one of its programs to its end."""
        other = {"user": self.user, "group": pwd.getpwnam(self.user).pw_gid, "extra_groups": []}
        return subprocess.run(
            [self.programs / program, *arguments],
            cwd=self.folder,
            check=program == "initdb",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            **(other if os.geteuid() == 0 else {}),
        )

    def start(self) -> None:
        """Starts it, and waits until it answers; skips the test if it does not."""
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
        done = self.run("pg_ctl", "start", "--wait", "--pgdata=data", "--log=log", f"--options={options}")
        if done.returncode:
            pytest.skip(f"PostgreSQL does not start here: {(self.folder / 'log').read_text()[-300:]}")

    def stop(self) -> None:
        """Stops it, whoever is connected."""
        self.run("pg_ctl", "stop", "--mode=immediate", "--wait", "--pgdata=data")
