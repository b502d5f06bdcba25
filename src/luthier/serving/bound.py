"""Runs the command that it is given, and ends it with all that it started once standard input is closed: so never later than whoever
started us, however he ended. Run by path, as the leader of a process group; it imports nothing of ours."""

import os
import signal
import subprocess
import sys
import threading


def main() -> None:
    child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)  # noqa: S603 (the words of whoever started us)

    def watch() -> None:
        while sys.stdin.buffer.read(1):
            pass
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
    os._exit(abs(child.wait()))


if __name__ == "__main__":
    main()
