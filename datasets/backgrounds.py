"""Rendered infrared backgrounds: drifting 1/f^b textures of clouds, sea and ground, with a horizon where it fits."""

from collections.abc import Callable

import numpy as np
import scipy

CLUTTERS = ("cloud", "sea", "ground")
TEXTURE_CONTRAST = 0.05  # standard deviation of the texture, of a full range of 1
HORIZON_BLUR = 0.8  # pixels


class Texture:
    """A periodic random field with power spectrum 1/f^b, mean 0 and deviation 1, seen through a moving window."""

    def __init__(self, shape: tuple[int, int], exponent: float, random: np.random.Generator, aspect: float = 1.0):
        """`aspect` > 1 stretches the structures horizontally by that factor."""
        self.shape = shape
        side = scipy.fft.next_fast_len(int(1.25 * max(shape)), real=True)
        self.frequency_y = scipy.fft.fftfreq(side).astype(np.float32)[:, None]
        self.frequency_x = scipy.fft.rfftfreq(side).astype(np.float32)[None]
        frequency = np.hypot(self.frequency_y, self.frequency_x * aspect)
        frequency[0, 0] = np.inf
        noise = random.standard_normal((side, side), dtype=np.float32)
        spectrum = scipy.fft.rfft2(noise) * frequency ** np.float32(-exponent / 2)
        self.spectrum = spectrum / scipy.fft.irfft2(spectrum, s=(side, side)).std()
        self.side = side

    def window(self, y: float, x: float) -> np.ndarray:
        """The field [H, W] with its origin moved to (y, x), at sub-pixel precision (a shift of the phases)."""
        turn_y, turn_x = (
            np.exp(np.complex64(2j * np.pi) * (frequency * np.float32(shift % self.side)))
            for frequency, shift in ((self.frequency_y, y), (self.frequency_x, x))
        )
        field = scipy.fft.irfft2(self.spectrum * turn_y * turn_x, s=(self.side, self.side), overwrite_x=True)
        return field[: self.shape[0], : self.shape[1]]


# frame number, platform offset (y, x) in pixels -> radiance [H, W], between about 0.2 and 0.7
Background = Callable[[int, np.ndarray], np.ndarray]


def build_background(clutter: str, shape: tuple[int, int], random: np.random.Generator) -> Background:
    """A background of `clutter` "cloud", "sea" or "ground" for frames of `shape`; it moves from frame to frame."""
    return {"cloud": _clouds, "sea": _sea, "ground": _ground}[clutter](shape, random)


def _clouds(shape: tuple[int, int], random: np.random.Generator) -> Background:
    """Two layers of cloud at different speeds before a sky that brightens downwards."""
    layers = [Texture(shape, random.uniform(2.6, 3.2), random) for _ in range(2)]
    winds = [random_velocity(random, 0.1, 0.8) for _ in layers]
    cover = random.uniform(-0.6, 0.4)
    sky = _gradient(shape, random)

    def render(frame: int, offset: np.ndarray) -> np.ndarray:
        near, far = (layer.window(*(wind * frame - offset)) for layer, wind in zip(layers, winds, strict=True))
        depth = 0.8 * near + 0.6 * far
        return sky + 1.4 * TEXTURE_CONTRAST * np.maximum(depth - cover, 0) + 0.25 * TEXTURE_CONTRAST * depth

    return render


def _sea(shape: tuple[int, int], random: np.random.Generator) -> Background:
    """Waves in two directions, with glints, under a hazy sky; the horizon is level."""
    waves = [Texture(shape, random.uniform(1.6, 2.2), random, aspect=3.0) for _ in range(2)]
    speeds = [random_velocity(random, 0.3, 1.0) for _ in waves]
    haze = Texture(shape, 3.2, random)
    drift = random_velocity(random, 0.05, 0.3)
    horizon = random.uniform(0.2, 0.45) * shape[0]
    sky, sea = _gradient(shape, random), random.uniform(0.25, 0.4)
    rows = np.arange(shape[0], dtype=np.float32)[:, None]

    def render(frame: int, offset: np.ndarray) -> np.ndarray:
        swell = sum(wave.window(*(speed * frame - offset)) for wave, speed in zip(waves, speeds, strict=True))
        height = rows - horizon - np.float32(offset[0])
        nearness = np.clip(0.35 + height / shape[0], 0.35, 1)
        water = sea + TEXTURE_CONTRAST * nearness * (0.7 * swell + 0.25 * np.maximum(swell - 1, 0) ** 2)
        air = sky + 0.5 * TEXTURE_CONTRAST * haze.window(*(drift * frame - offset))
        return below(height, water, air)

    return render


def _ground(shape: tuple[int, int], random: np.random.Generator) -> Background:
    """Patched terrain under a ragged skyline, seen from a slowly panning platform."""
    terrain, patches = Texture(shape, random.uniform(1.8, 2.3), random), Texture(shape, 3.0, random)
    haze = Texture(shape, 3.2, random)
    pan = random_velocity(random, 0.1, 0.7) * (0.2, 1.0)
    ridge = Texture((1, shape[1]), 3.6, random)
    horizon = random.uniform(0.15, 0.4) * shape[0]
    relief = random.uniform(0.02, 0.06) * shape[0]
    sky, land = _gradient(shape, random), random.uniform(0.35, 0.5)
    rows = np.arange(shape[0], dtype=np.float32)[:, None]

    def render(frame: int, offset: np.ndarray) -> np.ndarray:
        move = pan * frame - offset
        height = rows + np.float32(move[0]) - horizon - relief * ridge.window(0, move[1])
        soil = land + TEXTURE_CONTRAST * (0.8 * np.tanh(2 * patches.window(*move)) + 0.8 * terrain.window(*move))
        return below(height, soil, sky + 0.4 * TEXTURE_CONTRAST * haze.window(*(0.3 * move)))

    return render


def below(height: np.ndarray, surface: np.ndarray, air: np.ndarray) -> np.ndarray:
    """`surface` where `height` (pixels below the skyline) is positive, `air` above, blurred over the edge."""
    share = 1 / (1 + np.exp(np.clip(-height / HORIZON_BLUR, -30, 30)))
    return share * surface + (1 - share) * air


def _gradient(shape: tuple[int, int], random: np.random.Generator) -> np.ndarray:
    """A sky [H, 1] that grows warmer towards the ground."""
    top = random.uniform(0.2, 0.35)
    return np.linspace(top, top + random.uniform(0.02, 0.12), shape[0], dtype=np.float32)[:, None]


def random_velocity(random: np.random.Generator, low: float, high: float) -> np.ndarray:
    """A random velocity (y, x) in pixels a frame, mostly sideways."""
    speed, angle = random.uniform(low, high), random.normal(0, 0.4)
    return speed * random.choice((-1, 1)) * np.array([np.sin(angle), np.cos(angle)])
