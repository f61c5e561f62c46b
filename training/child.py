"""One `closedbook` command in a process of its own, which gives the memory of a GPU back when it ends."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from closedbook.harness.errors import WorkError


def call(command: Sequence[str], log: Path, launch: Sequence[str] = (), lock: int | None = None) -> int:
    """The exit code of a command, which writes to a file, and to the terminal if there is one.

    Ctrl-C and SIGTERM are handed on once each, so that training ends with a checkpoint.

    Args:
        command: Arguments of `closedbook`.
        log: Added to.
        launch: Arguments of `accelerate launch`, where several processes run it.
        lock: A descriptor that the command holds too, so that nobody begins anew beside it when this process is killed.

    Raises:
        WorkError: It was interrupted.
    """
    several = ["accelerate.commands.launch", *launch, "-m"] if launch else []
    program = [sys.executable, "-m", *several, "closedbook.harness.cli", *command]
    asked: list[int] = []
    begun: list[subprocess.Popen[bytes]] = []

    def hand_on(number: int, _: object) -> None:
        asked.append(number)
        for child in begun:
            child.send_signal(signal.SIGINT)

    # before the command begins, which would go on ignoring what is ignored here, as a shell's background jobs do
    before = {number: signal.signal(number, hand_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with (
            log.open("ab", buffering=0) as file,
            subprocess.Popen(
                program,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=() if lock is None else (lock,),
            ) as child,
        ):
            begun.append(child)
            for _ in asked:  # since the handlers are there
                child.send_signal(signal.SIGINT)
            file.write(f"\n$ closedbook {shlex.join(command)}\n".encode())
            assert child.stdout is not None
            while said := os.read(child.stdout.fileno(), 1 << 16):
                file.write(said)
                if sys.stderr.isatty():
                    sys.stderr.buffer.write(said)
                    sys.stderr.flush()
            code = child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if asked:
        raise WorkError("interrupted; the same command goes on")
    return code
