"""From a score map to a binary one. Each comparison is made in the map's own float type, as the published codes do."""

import numpy as np


def above_half(score: np.ndarray) -> np.ndarray:
    """{score} > 0.5"""
    return score > 0.5


def at_least_half(score: np.ndarray) -> np.ndarray:
    """{score} >= 0.5"""
    return score >= 0.5


def above_half_of_maximum(score: np.ndarray) -> np.ndarray:
    """{score} / max({score}) > 0.5"""
    highest = score.max()
    if highest <= 0:  # the published code divides by zero here and compares NaN, which is never above
        return np.zeros(score.shape, bool)
    return score / highest > 0.5
