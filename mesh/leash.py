"""Runs a command that dies with the process that started it, even when that one is killed.

Called as `python -I -S leash.py PARENT_PID COMMAND...`: asks the kernel for SIGKILL at the parent's
death, then becomes COMMAND by exec, so the process id stays. It imports nothing of ours and starts
in about 15 ms. The kernel watches the *thread* that forked: start children from the main thread.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
_EXIT_CANNOT_EXECUTE = 126
_EXIT_NOT_FOUND = 127


def main() -> None:
    """Replaces this process by the command, or exits as a shell would when it cannot."""
    parent_pid, command = int(sys.argv[1]), sys.argv[2:]
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:  # It died before the kernel was asked.
        sys.exit(_EXIT_CANNOT_EXECUTE)
    try:
        os.execvp(command[0], command)  # noqa: S606 - becoming it is the purpose
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr)
        missing = isinstance(error, FileNotFoundError)
        sys.exit(_EXIT_NOT_FOUND if missing else _EXIT_CANNOT_EXECUTE)


if __name__ == "__main__":
    main()
