"""What can go wrong, by exit code.  The message is one line: the value given and the values accepted."""


class UsageError(Exception):
    """The command, a flag, a config value or a path cannot be used as given."""

    exit_code = 2


class Fault(Exception):
    """Data, a checkpoint or the training itself is broken."""

    exit_code = 3


class Diverged(Fault):
    """A quantity of a training is no longer finite: another config may do."""
