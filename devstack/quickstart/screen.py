"""What the tour writes: steps, what is seen, checks and the verdict."""

from __future__ import annotations

import sys
import time


class TourFailedError(Exception):
    """A check failed; the tour ends here. The text says what was seen."""


class Screen:
    """Writes the tour to standard output, line by line.

    Attributes:
        checks: How many checks held so far.
    """

    def __init__(self) -> None:
        self._begin = time.monotonic()
        self._step = 0
        self._bold = sys.stdout.isatty()
        self.checks = 0

    def step(self, title: str) -> None:
        """Begin a step."""
        self._step += 1
        self._write(f"\n{self._mark(f'{self._step}. {title}')}")

    def say(self, text: str) -> None:
        """Tell what is done or seen."""
        for line in text.splitlines():
            self._write(f"   {line}")

    def require(self, holds: bool, text: str, *, seen: object = "") -> None:
        """Check something and say so.

        Args:
            holds: Whether it is as it should be.
            text: What should be.
            seen: What is, shown if the check fails.

        Raises:
            TourFailedError: It is not.
        """
        if not holds:
            detail = f"; seen: {seen}" if seen != "" else ""
            raise TourFailedError(f"{text}{detail}")
        self.checks += 1
        self._write(f"   {self._mark('ok')}  {text}")

    def verdict(self, failure: str) -> None:
        """End the tour with one line."""
        seconds = time.monotonic() - self._begin
        if failure:
            self._write(f"\n   FAILED  {failure}")
            text = f"quickstart FAILED after {self.checks} checks"
        else:
            text = f"quickstart passed: {self.checks} checks"
        self._write(self._mark(f"\n{text}, {seconds:.0f} s"))

    def _mark(self, text: str) -> str:
        return f"\033[1m{text}\033[0m" if self._bold else text

    @staticmethod
    def _write(text: str) -> None:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
