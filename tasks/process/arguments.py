"""The parser of commands that `reelnest` passes their arguments to."""

import argparse
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """Reports a mistake in one line."""

    def error(self, message: str) -> NoReturn:
        """Prints the error without the usage, whose lines hide the mistake."""
        self.exit(2, f"{self.prog}: error: {message}. Type `{self.prog} --help` for help.\n")
