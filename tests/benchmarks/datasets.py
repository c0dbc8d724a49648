"""Training clips per second and worker: our presets against the published pipeline written plainly.

`python -m tests.benchmarks.datasets` renders 30-frame sequences of 320 x 256 into a temporary folder, times pipelines
on one core and ends with exit code 1 where a preset misses its target. For orientation: the released code of SGMP-UNet
made 8.5 clips a second on the machine that the targets were set on. The plain pipeline and ours both read the files
within the time; ours keep the decoded frames over two epochs, as a worker does that stays alive.
"""

import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as tv

from istd.datasets import ClipDataset, Sequence, open_dataset
from istd.datasets.presets import FIRST_SHORT_SIDES, SECOND_SHORT_SIDES, build_transform
from istd.datasets.synthetic import RenderConfig, render_dataset
from istd.datasets.transforms import IMAGENET_MEAN, IMAGENET_STD, short_side_size

SETTINGS = RenderConfig(sequences=4, frames=30, size=(256, 320), val_share=0.25)
CLIP_FRAMES = 6
PLAIN_SIZE = 320
RUNS = (("sgmp_unet", 320, 3.0), ("grey", 320, 10.0), ("grey", 128, 10.0))  # preset, size, minimum speed-up
PLAIN_CLIPS = 24
EPOCHS = 2


def plain_clip(sequence: Sequence, target: int) -> tuple[torch.Tensor, torch.Tensor]:
    """One training clip of SGMP-UNet as the recipe reads, step by step on RGB images."""
    length = len(sequence.frames)
    indices = [(target - CLIP_FRAMES // 2 + i) % length for i in range(CLIP_FRAMES)]
    clip = [Image.open(sequence.frames[i].image).convert("RGB") for i in indices]
    mask = Image.fromarray((np.asarray(Image.open(sequence.frames[target].mask)) > 0).astype(np.uint8))
    if random.random() < 0.5:
        clip, mask = [tv.hflip(frame) for frame in clip], tv.hflip(mask)
    clip, mask = _resize(
        clip, mask, short_side_size(clip[0].height, clip[0].width, random.choice(FIRST_SHORT_SIDES), 800)
    )
    clip = [_distort(frame) for frame in clip]
    clip, mask = _resize(clip, mask, short_side_size(mask.height, mask.width, random.choice(SECOND_SHORT_SIDES)))
    height, width = (random.randint(473, min(side, 750)) for side in (mask.height, mask.width))
    window = (random.randint(0, mask.height - height), random.randint(0, mask.width - width), height, width)
    clip, mask = [tv.crop(frame, *window) for frame in clip], tv.crop(mask, *window)
    clip, mask = _resize(clip, mask, (PLAIN_SIZE, PLAIN_SIZE))
    tensors = [
        tv.normalize(tv.to_dtype(tv.to_image(f), torch.float32, True), IMAGENET_MEAN, IMAGENET_STD) for f in clip
    ]
    return torch.stack(tensors), tv.to_image(mask).float()


def _resize(clip: list[Image.Image], mask: Image.Image, size: tuple[int, int]) -> tuple[list[Image.Image], Image.Image]:
    shape = size[::-1]
    return [frame.resize(shape, Image.Resampling.BILINEAR) for frame in clip], mask.resize(
        shape, Image.Resampling.NEAREST
    )


def _distort(frame: Image.Image) -> Image.Image:
    """Brightness, contrast, saturation, hue and channel shuffle."""
    pixels = np.asarray(frame).astype(np.float32)
    if random.random() < 0.5:
        pixels = pixels + random.uniform(-32, 32)
    contrast_first = random.random() < 0.5
    for step in (contrast_first, None, not contrast_first):
        if step is True and random.random() < 0.5:
            pixels = pixels * random.uniform(0.5, 1.5)
        if step is None:
            hsv = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV)
            if random.random() < 0.5:
                hsv[..., 1] *= random.uniform(0.5, 1.5)
            if random.random() < 0.5:
                hsv[..., 0] = (hsv[..., 0] + random.uniform(-18, 18)) % 360
            pixels = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    if random.random() < 0.5:
        pixels = pixels[..., random.sample(range(3), 3)]
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def clips_per_second(make: Callable[[int], object], order: list[int]) -> float:
    started = time.perf_counter()
    for index in order:
        make(index)
    return len(order) / (time.perf_counter() - started)


def measure(sequences: list[Sequence]) -> list[tuple[str, float, float]]:
    """(name, clips per second, minimum speed-up) of the plain pipeline, which comes first, and of each preset."""
    targets = [(sequence, index) for sequence in sequences for index in range(len(sequence.frames))]
    order = random.Random(0).sample(range(len(targets)), len(targets))
    speeds = [(f"plain {PLAIN_SIZE}", clips_per_second(lambda i: plain_clip(*targets[i]), order[:PLAIN_CLIPS]), 1.0)]
    for preset, size, minimum in RUNS:
        dataset = ClipDataset(sequences, CLIP_FRAMES, build_transform(preset, True, size, 3), border="wrap")
        speeds.append((f"{preset} {size}", clips_per_second(dataset.__getitem__, order * EPOCHS), minimum))
    return speeds


def main() -> int:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        render_dataset(Path(folder) / "clips", SETTINGS)
        speeds = measure(open_dataset(Path(folder) / "clips").sequences)
    plain = speeds[0][1]
    for name, speed, minimum in speeds:
        print(f"{name:14} {speed:8.1f} clips/s   x {speed / plain:6.1f}   (at least x {minimum:.0f})")
    return int(any(speed / plain < minimum for _, speed, minimum in speeds))


if __name__ == "__main__":
    sys.exit(main())
