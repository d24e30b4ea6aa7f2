"""What the deciding thread is told by others, and how much of it is taken in before it decides again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from typing import Final

Message = Callable[[float], None]
"""Applied by the inbox's owner, with the monotonic time in seconds."""

Inbox = SimpleQueue[Message]

_AT_ONCE: Final = 1000
_SECONDS: Final = 0.02
"""For so long changes are taken in before there is a decision again."""


def taken(inbox: Inbox, wait_seconds: float, clock: Callable[[], float]) -> Iterator[Message]:
    """Messages in their order, as many as can be applied soon. The first is waited for; `clock` is read
    before each further one, when the one before it has been applied.
    """
    try:
        yield inbox.get(timeout=wait_seconds) if wait_seconds else inbox.get_nowait()
        until = clock() + _SECONDS
        for _ in range(_AT_ONCE - 1):
            if clock() > until:
                return
            yield inbox.get_nowait()
    except Empty:
        pass
