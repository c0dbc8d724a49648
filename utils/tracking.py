"""Link the points of successive frames into tracks: constant velocity, a gate in pixels, optimal assignment.

A Kalman filter predicts each track, and scipy assigns points to tracks by likelihood. Libraries were tried first:
supervision's ByteTrack (now in `trackers`) compares boxes by IoU, which is 0 for targets of 3 px that move by 3 px;
laptrack 0.17 predicts no velocity; trackpy 0.7 has one search radius for new and known tracks and raises an error in
clutter; norfair 2.3 assigns greedily and needs filterpy, last released in 2018.
"""

from collections.abc import Iterable

import numpy as np
import scipy

TARGET_SPEED = 2.0  # px a frame, standard deviation of a target's speed along each axis
POSITION_NOISE = 0.5  # px, standard deviation of a centroid
ACCELERATION = 0.5  # px / frame ** 2, standard deviation
GATE = 3.0  # standard deviations within which a new track takes its second point
MAX_GAP = 3  # frames without a point after which a track goes on
MAX_POINTS = 500  # of a frame; more are noise, and are not linked


class Linker:
    """Gives each point of a sequence the number of its track, frame by frame; memory does not grow with the sequence.

    speed: standard deviation of the targets' speed along each axis, px a frame. A track's second point lies within
    about 3 times this of its first point (6.5 px at the default of 2), later points within about 3 px of the predicted
    position, or further off after a gap.
    """

    def __init__(self, speed: float = TARGET_SPEED):
        self._speed = speed
        self._started, self._time = 0, 0
        self._numbers, self._last_seen = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self._states = np.zeros((0, 2, 2))  # [tracks, (x, y), (position, velocity)]
        self._covariances = np.zeros((0, 2, 2))  # of position and velocity, the same for x and y

    def update(self, points: np.ndarray, time: int) -> np.ndarray:
        """Track numbers int64 [n] of the points (x, y) float [n, 2] of the frame `time`, later than the last frame.

        Tracks are numbered from 1 in the order of their first points. Frames of more than `MAX_POINTS` points get 0.
        """
        self._predict(time)
        numbers = np.zeros(len(points), np.int64)
        if not 0 < len(points) <= MAX_POINTS:
            return numbers
        if len(self._numbers):  # otherwise the prediction of an image would wait for the import of scipy.optimize
            self._continue(points, numbers, time)
        self._start(points, numbers, time)
        return numbers

    def _continue(self, points: np.ndarray, numbers: np.ndarray, time: int) -> None:
        """Continue tracks with points of the frame `time`, and write their numbers into `numbers`."""
        offsets = points[None] - self._states[:, None, :, 0]
        variances = self._covariances[:, 0, 0] + POSITION_NOISE**2
        # -2 log-likelihood of a point, less its value at the gate of a track that was seen once, in the last frame
        fresh = 2 * POSITION_NOISE**2 + self._speed**2 + ACCELERATION**2 / 4
        costs = (offsets**2).sum(axis=2) / variances[:, None] + 2 * np.log(variances / fresh)[:, None] - GATE**2
        costs = np.minimum(costs, 0)
        tracks, linked = scipy.optimize.linear_sum_assignment(costs)
        inside = costs[tracks, linked] < 0
        tracks, linked = tracks[inside], linked[inside]
        self._correct(tracks, offsets[tracks, linked], variances[tracks])
        self._last_seen[tracks] = time
        numbers[linked] = self._numbers[tracks]

    def _predict(self, time: int) -> None:
        """Move all tracks to `time`, and end those whose gap is too long."""
        step, self._time = time - self._time, time
        alive = time - self._last_seen <= MAX_GAP + 1
        self._numbers, self._last_seen = self._numbers[alive], self._last_seen[alive]
        move = np.array([[1.0, step], [0.0, 1.0]])
        push = np.array([step**2 / 2, step]) * ACCELERATION
        self._states = self._states[alive] @ move.T
        self._covariances = move @ self._covariances[alive] @ move.T + np.outer(push, push)

    def _correct(self, tracks: np.ndarray, offsets: np.ndarray, variances: np.ndarray) -> None:
        """The Kalman update of `tracks` with points at `offsets` [m, 2] from their predictions."""
        gains = self._covariances[tracks, :, 0] / variances[:, None]
        self._states[tracks] += offsets[:, :, None] * gains[:, None, :]
        self._covariances[tracks] -= gains[:, :, None] * gains[:, None, :] * variances[:, None, None]

    def _start(self, points: np.ndarray, numbers: np.ndarray, time: int) -> None:
        """Start a track at each point without a number, and write its number into `numbers`."""
        new = np.flatnonzero(numbers == 0)
        numbers[new] = self._started + 1 + np.arange(len(new))
        self._started += len(new)
        states = np.stack([points[new], np.zeros((len(new), 2))], axis=2)
        covariances = np.tile(np.diag([POSITION_NOISE**2, self._speed**2]), (len(new), 1, 1))
        self._numbers = np.concatenate([self._numbers, numbers[new]])
        self._last_seen = np.concatenate([self._last_seen, np.full(len(new), time)])
        self._states = np.concatenate([self._states, states])
        self._covariances = np.concatenate([self._covariances, covariances])


def link(frames: Iterable[tuple[int, np.ndarray]], speed: float = TARGET_SPEED) -> list[np.ndarray]:
    """Track numbers of the points of each frame, given as (time, points) in temporal order; see `Linker`."""
    linker = Linker(speed)
    return [linker.update(np.asarray(points, float).reshape(-1, 2), time) for time, points in frames]
