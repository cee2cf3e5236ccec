"""A command that is killed at one step after another and typed again each time: it must end as if nothing had been."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

# each kill hits a process forked from this one, which has imported everything and computed nothing
PROGRAM = """
import os, signal
{imports}

def command(out):
    {call}

for owner, name, times in {kills}:
    child = os.fork()
    if not child:
        real, called = getattr(owner, name), 0
        def step(*arguments, **named):
            global called
            called += 1
            if called == times:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **named)
        setattr(owner, name, step)
        command("killed")
        os._exit(0)
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert ended == -signal.SIGKILL, (name, times, ended)
command("killed")
command("whole")
"""


def killed_again_and_again(folder: Path, imports: str, call: str, kills: Sequence[str], clocked: str = "") -> None:
    """In a folder, `call` makes `out` of two names: "killed", after a kill at each step, and "whole".

    kills: "owner, name, times": what is called, and at which of its calls, before it does anything, the process dies.
    clocked: a table of which the last column is seconds, not compared. Raises AssertionError where a step is not
    reached, a command fails, or files of the two differ.
    """
    listed = "[" + "".join(f"({owner}, {name!r}, {times}), " for owner, name, times in (k.split(", ") for k in kills))
    program = PROGRAM.format(imports=imports, call=call, kills=listed + "]")
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}  # a fork has no other
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env=one_thread, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
    killed, whole = (files_of(folder / name, clocked) for name in ("killed", "whole"))
    assert killed.keys() == whole.keys()
    differing = [name for name in whole if killed[name] != whole[name]]
    assert not differing, differing
    assert not list(folder.glob(".killed*/partial"))


def files_of(out: Path, clocked: str) -> dict[str, bytes]:
    files = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    if clocked:
        files[clocked] = b"\n".join(line.rpartition(b"\t")[0] for line in files[clocked].splitlines())
    return files
