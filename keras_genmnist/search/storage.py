"""Where a study is kept, and locks that end with the process that holds them, however it ends.

A journal file serves the processes and hosts that share a file system: it and the locks beside it are embedded, nothing
has to run.  A PostgreSQL database serves any machines that reach it: its locks are those of a connection.
"""

import contextlib
import fcntl
import os
import re
from collections.abc import Iterator
from pathlib import Path

from keras_genmnist import files
from keras_genmnist.errors import Fault, UsageError

NEEDED = "a search needs Optuna: pip install 'keras_genmnist[tune]', or '.[tune]' in a clone"
try:
    import optuna
    import sqlalchemy
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend
except ModuleNotFoundError as error:
    raise UsageError(NEEDED) from error

optuna.logging.set_verbosity(optuna.logging.ERROR)

CLAIM = -1  # the lock under which trials are begun and given up; those of trials have their numbers
CONNECT = 10  # seconds
# After a loss of power a server would wait two hours for what a dead machine might still say.
KEEPALIVE = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
ON_THE_SERVER = "-c tcp_keepalives_idle=30 -c tcp_keepalives_interval=10 -c tcp_keepalives_count=3"


class Journal:
    """A study in a file."""

    def __init__(self, path: Path, study: str):
        """
        Args:
          path: of the journal; made where it is missing.
          study: its name.
        Raises:
          UsageError, Fault: if it cannot be written, or is damaged.
        """
        self.path, self.study = Path(os.path.abspath(path)), study
        self.locks = self.path.with_name(f"{self.path.name}.locks")
        with files.writing(self.path), files.made(self.locks), self.reached():
            (self.locks / "journal").touch()  # keeps the folder
            self.optuna = JournalStorage(JournalFileBackend(str(self.path), _Appending(self)))

    def __str__(self) -> str:
        return str(self.path)

    shown = property(__str__)

    @contextlib.contextmanager
    def reached(self) -> Iterator[None]:
        """Says in one line what keeps it from being read or written."""
        try:
            yield
        except OSError as error:
            raise Fault(f"cannot use {self.path}: {error.strerror or error}; make it writable, and go on") from error
        except (ValueError, LookupError, TypeError, AssertionError) as error:
            if isinstance(error, optuna.exceptions.OptunaError):
                raise
            raise Fault(f"{self.path} is damaged ({error!r:.80}): restore it, or begin another study") from error

    @contextlib.contextmanager
    def claiming(self) -> Iterator[None]:
        """Waits until no other process begins or gives up a trial."""
        with open(self.locks / f"{self.study}-claim", "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def hold(self, number: int) -> contextlib.AbstractContextManager | None:
        """The lock of a trial, held until it is closed or the process ends; None where another process holds it."""
        file = open(self.locks / f"{self.study}-{number}", "w")  # noqa: SIM115
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        return contextlib.closing(file)

    def still_holds(self, number: int) -> bool:
        """Whether the lock that was taken is held still: that of a file is."""
        return True


class _Appending:
    """The lock under which Optuna appends to a journal: the system frees it where a process is killed.

    Optuna's own would stay, and be waited for.  What a full disk left of a line is cut off: it would spoil the next.
    """

    def __init__(self, journal: Journal):
        self.journal = journal

    def acquire(self) -> bool:
        self.file = open(self.journal.locks / "journal", "w")  # noqa: SIM115
        fcntl.flock(self.file, fcntl.LOCK_EX)
        with open(self.journal.path, "r+b") as file:
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                if file.read() != b"\n":
                    file.seek(0)
                    file.truncate(file.read().rfind(b"\n") + 1)
        return True

    def release(self) -> None:
        self.file.close()


class Postgres:
    """A study in a PostgreSQL database."""

    def __init__(self, url: str, study: str):
        """
        Args:
          url: postgresql://USER:PASSWORD@HOST:PORT/DATABASE.
          study: its name.
        Raises:
          UsageError: if the address cannot be read, or its driver is not installed.
          Fault: if the database cannot be reached.
        """
        self.study, self.held = study, set()
        try:
            parsed = sqlalchemy.engine.make_url(url).set(drivername="postgresql+psycopg")
        except (sqlalchemy.exc.ArgumentError, ValueError) as error:
            raise UsageError(f"--storage={hidden(url)} is no address: give postgresql://USER@HOST/DATABASE") from error
        self.url, self.shown = url, hidden(url)
        arguments = {"connect_timeout": CONNECT, "options": ON_THE_SERVER, **KEEPALIVE}
        with self.reached():
            try:
                self.optuna = RDBStorage(
                    parsed.render_as_string(hide_password=False),
                    engine_kwargs={"pool_pre_ping": True, "connect_args": arguments},
                )
            except ImportError as error:
                raise UsageError(NEEDED) from error
            self._connect()

    def __str__(self) -> str:
        return self.url

    def _connect(self) -> None:
        """Takes a connection that is kept: what it locks is free once it is closed, from here or by the system."""
        self.connection = self.optuna.engine.connect().execution_options(isolation_level="AUTOCOMMIT")

    def _ask(self, function: str, number: int) -> bool:
        asked = sqlalchemy.text(f"SELECT {function}(hashtext(:study), :number)")
        return self.connection.execute(asked, {"study": f"genmnist {self.study}", "number": number}).scalar()

    @contextlib.contextmanager
    def reached(self) -> Iterator[None]:
        """Says in one line that the database cannot be reached."""
        try:
            yield
        except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
            reason = " ".join(str(getattr(error, "orig", None) or error.__cause__ or error).split())
            raise Fault(
                f"cannot reach {self.shown} ({reason:.200}): nothing is lost; go on once it is there"
            ) from error

    @contextlib.contextmanager
    def claiming(self) -> Iterator[None]:
        """Waits until no other process begins or gives up a trial."""
        self._revive()
        self._ask("pg_advisory_lock", CLAIM)
        try:
            yield
        finally:
            self._ask("pg_advisory_unlock", CLAIM)

    def hold(self, number: int) -> contextlib.AbstractContextManager | None:
        """The lock of a trial, held until it is closed or the process ends; None where another process holds it."""
        # The server gives a connection what it has already.
        if number in self.held or not self._ask("pg_try_advisory_lock", number):
            return None
        self.held.add(number)
        stack = contextlib.ExitStack()
        stack.callback(self._free, number)
        return stack

    def _free(self, number: int) -> None:
        self.held.discard(number)
        with contextlib.suppress(sqlalchemy.exc.SQLAlchemyError):  # of a connection that is lost, the server frees it
            self._ask("pg_advisory_unlock", number)

    def still_holds(self, number: int) -> bool:
        """Whether the lock that was taken is held still, taking it again where the connection had been lost."""
        return self._revive() or self._ask("pg_try_advisory_lock", number)

    def _revive(self) -> bool:
        """Whether the connection lives; if not, takes another, which holds no lock yet."""
        try:
            self.connection.execute(sqlalchemy.text("SELECT 1"))
            return True
        except sqlalchemy.exc.SQLAlchemyError:
            self.connection.close()
            self._connect()
            return False


def open_storage(where: str, study: str) -> Journal | Postgres:
    """The storage at an address: postgresql://..., or the path of a journal file.

    Raises:
      UsageError: if it is neither, or cannot be written, or no study can have this name.
      Fault: if it is damaged or cannot be reached.
    """
    if not re.fullmatch(r"[^/.][^/]{0,99}", study):
        raise UsageError(f"--study={study} is no name: give one of at most 100 letters, without / and leading dots")
    scheme = re.match(r"([a-z0-9+]+)://", where, re.I)
    if scheme and scheme[1].lower() not in ("postgresql", "postgres"):
        raise UsageError(
            f"--storage={hidden(where)} is not known: give postgresql://USER@HOST/DATABASE or the path of a file"
        )
    return Postgres(where, study) if scheme else Journal(Path(where), study)


def hidden(text: str) -> str:
    """The text, with *** for the password of an address in it."""
    text = re.sub(r"(://[^:/@\s]*:)[^@\s]*@", r"\1***@", text)
    return re.sub(r"([?&]password=)[^&\s]*", r"\1***", text)
