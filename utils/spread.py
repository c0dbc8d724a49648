"""Indices spread evenly over a number of items."""


def spread(count: int, limit: int | None) -> list[int]:
    """Indices of up to `limit` of `count` items, evenly spread; all of them if `limit` is None."""
    limit = count if limit is None else min(limit, count)
    return [index * count // limit for index in range(limit)]
