"""The command that is told of the end of every run, such as one that writes to a chat or pages somebody."""

import shlex
import subprocess
from pathlib import Path

from samestyle.progress import say


def notify(command: str | None, summary: Path, timeout_s: float) -> None:
    """Run `command` with the path of summary.json as its last argument, and the file on its standard input.

    Nothing that it does changes how the run ended: a failure is said, and that is all.
    """
    if not command:
        return
    try:
        with open(summary, "rb") as content:
            done = subprocess.run(
                [*shlex.split(command), str(summary)],
                stdin=content,
                capture_output=True,
                timeout=timeout_s,
                check=False,
            )
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        say(f"notify.command {command!r} failed: {error}")
        return
    if done.returncode:
        last = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
        say(f"notify.command {command!r} ended with {done.returncode}{': ' if last else ''}{''.join(last)}")
