"""What is told of a gang whose search gave up: what was tried, and what would help."""

from __future__ import annotations

from collections.abc import Iterator

from controller.gangs.book import Roll
from controller.gangs.places import NoRoom, Tried
from controller.gangs.rules import has_rules


def gave_up(roll: Roll, members: int, room: NoRoom) -> str:
    """Say it in one sentence. `members` were to be placed together."""
    *parts, last = _helps(roll, members, room)
    helps = f"{', '.join(parts)} or {last}" if parts else last
    return f"the search for {_counted(members, 'place')} gave up{_tried(members, room)}; {helps} would help"


def _tried(members: int, room: NoRoom) -> str:
    tried = room.tried
    if tried is None:
        return ""
    after = f" after {_counted(tried.steps, 'step')}" if tried.steps else ""
    parts = [
        f"{_counted(members, 'member')} of {_counted(tried.kinds, 'kind')}",
        f"{_counted(tried.nodes, 'node')} in {_counted(tried.states, 'state')}",
    ]
    if tried.rail_sets:
        parts.append(_counted(tried.rail_sets, "set") + " of rails")
    found = f", with room for {room.most} at once" if room.most else ""
    return f"{after}: it tried {', '.join(parts)}{found}"


def _helps(roll: Roll, members: int, room: NoRoom) -> Iterator[str]:
    """What would make the search smaller, or is known to have room."""
    tried = room.tried or Tried(1, 0, 0, 0, 0)
    if tried.rail_sets > 1:
        yield "rails: any"
    if tried.kinds > 1:
        yield "members that ask for the same"
    if any(has_rules(wish.pod) for wish in roll.waiting[:members]):
        yield "pods with simpler rules for each other"
    known = room.most >= 2 and not roll.allocated  # no gang is smaller
    yield f"size: {room.most}" if known else "a smaller size"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"
