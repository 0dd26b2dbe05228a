"""A deadline on the wire: OpenAI's API has no field for one, so it is a header, which every client can send."""

from __future__ import annotations

from collections.abc import Sequence

from enginebay.errors import InvalidRequest

DEADLINE_HEADER = "x-enginebay-deadline-ms"
MAX_DEADLINE_MS = 24 * 3600 * 1000


def time_left_s(values: Sequence[bytes]) -> float | None:
    """What a request's headers of this name give the whole answer, from its arrival on; None without one.

    Raises InvalidRequest.
    """
    if not values:
        return None
    if len(values) > 1:
        raise InvalidRequest(f"the header {DEADLINE_HEADER} was given {len(values)} times", field=DEADLINE_HEADER)
    text = values[0].decode("latin-1").strip()
    # more digits than the bound has are not worth a conversion
    number = int(text) if text.isascii() and text.isdecimal() and len(text) <= len(str(MAX_DEADLINE_MS)) else 0
    if not 1 <= number <= MAX_DEADLINE_MS:
        raise InvalidRequest(
            f"the header {DEADLINE_HEADER} is {text[:40]!r}: give milliseconds as a whole number from 1 to "
            f"{MAX_DEADLINE_MS}, counted from the arrival of the request",
            field=DEADLINE_HEADER,
        )
    return number / 1000
