"""A command that is started again whenever a file of the application changes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import Any

LOOK_S = 0.3
FILES_MOST = 10000  # that are looked at
SKIPPED = {"__pycache__", "node_modules"}

Seen = dict[str, tuple[int, int]]


def files(directory: str) -> Seen:
    """When each Python file below the directory was changed, and its size."""
    found: Seen = {}
    for path, directories, names in os.walk(directory):
        directories[:] = sorted(
            name for name in directories
            if name[0] != "." and name not in SKIPPED
            and not os.path.exists(os.path.join(path, name, "pyvenv.cfg"))
        )
        for name in sorted(names):
            if not name.endswith(".py"):
                continue
            try:
                now = os.stat(os.path.join(path, name))
            except OSError:
                continue  # it is being replaced
            found[os.path.join(path, name)] = (now.st_mtime_ns, now.st_size)
            if len(found) >= FILES_MOST:
                return found
    return found


def changed(before: Seen, now: Seen) -> list[str]:
    return sorted(
        path for path in set(before) | set(now)
        if before.get(path) != now.get(path)
    )


class Interrupted(Exception):
    """Somebody wants it all to end."""


def _interrupt(number: int, frame: Any) -> None:
    raise Interrupted


def watch(command: list[str], directory: str) -> int:
    """Run it, again and again; the exit status when it is interrupted."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        while True:
            before = files(directory)
            process = subprocess.Popen(command)
            try:
                after = wait(process, directory, before)
            finally:
                end(process)
            say("%s changed, starting again" % ", ".join(
                os.path.relpath(path, directory)
                for path in changed(before, after)[:3]))
    except Interrupted:
        return 0


def wait(
    process: subprocess.Popen[bytes], directory: str, before: Seen
) -> Seen:
    """Until something has changed; the files then."""
    ended = False
    while True:
        time.sleep(LOOK_S)
        if not ended and process.poll() is not None:
            ended = True
            say("ended with exit status %d, waiting for a change"
                % process.returncode)
        now = files(directory)
        if now != before:
            return now


def end(process: subprocess.Popen[bytes]) -> None:
    """Stop it cleanly, or, when that is asked for again, at once."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait()
    except Interrupted:
        process.kill()
        process.wait()
        raise


def say(text: str) -> None:
    print("wallaroo: " + text, file=sys.stderr, flush=True)
