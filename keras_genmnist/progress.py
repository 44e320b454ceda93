"""How far a long piece of work is: a bar on a terminal, elsewhere a line now and then."""

import sys
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

from tqdm.auto import tqdm  # in a notebook, a bar of its own
from tqdm.notebook import tqdm as notebook_bar

EVERY = 10.0  # seconds
NOTEBOOK = issubclass(tqdm, notebook_bar)
Item = TypeVar("Item")


def bar(items: Sequence | None = None, **given) -> tqdm:
    """A bar of tqdm, where somebody may be looking: on a terminal or in a notebook."""
    return tqdm(items, disable=False if NOTEBOOK else None, leave=False, **given)


class Ticker:
    """Lines on standard error where it is no terminal, at most one in EVERY seconds."""

    def __init__(self):
        self.restart()

    def restart(self) -> None:
        """Waits for EVERY seconds from now on."""
        self._since = time.monotonic()

    def tell(self, line: str) -> None:
        """Prints the line, if it is time for one."""
        if time.monotonic() - self._since >= EVERY and not (NOTEBOOK or sys.stderr.isatty()):
            print(line, file=sys.stderr, flush=True)
            self.restart()


def batches(items: Sequence[Item], label: str) -> Iterator[Item]:
    """The items in turn, and how many of them are done."""
    ticker = Ticker()
    for number, item in enumerate(bar(items, desc=label, unit="batch")):
        ticker.tell(f"{label}: {number} of {len(items)} batches")
        yield item
