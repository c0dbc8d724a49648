"""Sources of score maps: the files of any method here, a network that runs over a dataset in `network_maps`.

A source is called with shards, which are lists of frame numbers, and yields a `MappedFrame` for each frame: shards in
any order, the frames of a shard in order.
"""

from collections.abc import Callable, Iterator
from itertools import chain
from typing import NamedTuple

import numpy as np
import scipy

from istd.test_script.predictor import ScoreMaps
from istd.utils.metrics.saved_maps import Pair, read_pair


class MappedFrame(NamedTuple):
    """Frame number `item` of a set with its score maps and its true mask, bool [H, W]."""

    item: int
    maps: ScoreMaps
    mask: np.ndarray

    def score(self, scale: str) -> np.ndarray:
        """The map [H, W] on the scale "probability" or "logit", computed from the other scale if only that is known.

        "log_odds": the logit of the probability, which ranks pixels whose probabilities round to 1 as well.
        """
        probability, logits, log_odds = self.maps
        if scale == "probability":
            return scipy.special.expit(logits) if probability is None else probability
        if scale == "logit":
            return scipy.special.logit(probability) if logits is None else logits
        if log_odds is not None:
            return log_odds
        return logits if probability is None else scipy.special.logit(probability.astype(np.float64))


MapSource = Callable[[list[list[int]]], Iterator[MappedFrame]]


def saved_maps(
    shards: list[list[int]],
    pairs: list[Pair],
    scale: str = "probability",
    two_values: tuple[float, float] | None = None,
) -> Iterator[MappedFrame]:
    """Read the saved maps and masks of the items of `shards`; `scale` and `two_values`: see `map_files.read_scores`."""
    for item in chain.from_iterable(shards):
        score, mask = read_pair(pairs[item], scale, two_values)
        yield MappedFrame(item, ScoreMaps(None, score) if scale == "logit" else ScoreMaps(score, None), mask)
