"""Lists of items: in batches, as `itertools.batched` of Python 3.12 makes them, or spread evenly over a sequence."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of up to `size` consecutive items."""
    iterator = iter(items)
    return iter(lambda: list(islice(iterator, size)), [])


def spread(items: Sequence[T], limit: int | None) -> list[T]:
    """Up to `limit` items, evenly spread; all of them if `limit` is None."""
    limit = len(items) if limit is None else min(limit, len(items))
    return [items[number * len(items) // limit] for number in range(limit)]
