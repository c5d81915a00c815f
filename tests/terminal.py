"""A terminal in which a command is typed: a pseudo-terminal of the kernel, and what a person would see on it afterwards."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from collections.abc import Sequence
from pathlib import Path

_ESCAPE = re.compile(r"\x1b\[[0-9;?]*([A-Za-z])")


def typed_on_a_terminal(words: Sequence[str], folder: Path, columns: int = 100) -> tuple[int, str]:
    """Type a command in a folder; returns its exit code and everything that the terminal got."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    with subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs, cwd=folder, start_new_session=True) as command:
        os.close(theirs)
        got = bytearray()
        while True:
            try:
                some = os.read(ours, 2**16)
            except OSError:  # how Linux says that everyone who wrote has gone
                break
            if not some:
                break
            got += some
    os.close(ours)
    return command.returncode, got.decode("utf-8", "replace")


def seen(text: str) -> list[str]:
    """The lines that a terminal shows which got a text, as far as carriage returns and erased lines make them."""
    lines, at, place = [""], 0, 0
    while place < len(text):
        if (escape := _ESCAPE.match(text, place)) is not None:
            if escape[1] == "K":
                lines[-1] = lines[-1][:at]
            place = escape.end()
            continue
        letter = text[place]
        if letter == "\r":
            at = 0
        elif letter == "\n":
            lines.append("")
        else:
            lines[-1] = lines[-1][:at].ljust(at) + letter + lines[-1][at + 1:]
            at += 1
        place += 1
    return [line.rstrip() for line in lines]
