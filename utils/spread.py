"""Items spread evenly over a sequence."""

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def spread(items: Sequence[T], limit: int | None) -> list[T]:
    """Up to `limit` items, evenly spread; all of them if `limit` is None."""
    limit = len(items) if limit is None else min(limit, len(items))
    return [items[number * len(items) // limit] for number in range(limit)]
