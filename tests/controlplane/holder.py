"""The first process of a container: it holds the namespaces, and all that runs in them dies with it.

Run as a script, by itself (standard library only). Arguments: a name by which it is found in /proc, then
`owned` or `kept`. An owned holder lives as long as the other end of its stdin is open, that is, as long as
the process which started it, however that ends, unless it is told to stay by a byte.
"""

import os
import signal
import sys


def main() -> None:
    """Says "ready" on stdout, then waits."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps the orphans that come to us
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    if sys.argv[2] == "owned" and not os.read(0, 1):
        return
    while True:
        signal.pause()


if __name__ == "__main__":
    main()
