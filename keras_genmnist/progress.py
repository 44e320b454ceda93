"""How far a long piece of work is: a bar on a terminal, elsewhere a line now and then."""

import sys
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

from tqdm import tqdm

EVERY = 10.0  # seconds
Item = TypeVar("Item")


class Ticker:
    """Lines on standard error where it is no terminal, at most one in EVERY seconds."""

    def __init__(self):
        self.restart()

    def restart(self) -> None:
        """Waits for EVERY seconds from now on."""
        self._since = time.monotonic()

    def tell(self, line: str) -> None:
        """Prints the line, if it is time for one."""
        if time.monotonic() - self._since >= EVERY and not sys.stderr.isatty():
            print(line, file=sys.stderr, flush=True)
            self.restart()


def batches(items: Sequence[Item], label: str) -> Iterator[Item]:
    """The items in turn, and how many of them are done."""
    ticker = Ticker()
    for number, item in enumerate(tqdm(items, desc=label, unit="batch", disable=None, leave=False)):
        ticker.tell(f"{label}: {number} of {len(items)} batches")
        yield item
