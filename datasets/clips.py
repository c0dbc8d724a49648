"""`ClipDataset`: clips of T frames around a target frame, with the mask of that frame."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from istd.datasets.augmentations import Augmentation
from istd.datasets.layouts import Frame, Sequence
from istd.datasets.usable import mask_lines
from istd.utils.errors import InputError
from istd.utils.grey_levels import SEQUENCE, GreyRange, GreyScale, RangeRule, is_raw, range_frames
from istd.utils.images import size_text
from istd.utils.names import counted

BORDERS = ("clamp", "wrap")
CACHE_BYTES = 512 * 2**20  # per worker; 8192 frames of 256 x 256 at 8 bit


class ClipSample(dict):
    """A mapping: "clip" float [T, C, H, W], "mask" float 0/1 [1, h, w], the names "dataset", "sequence" and "frame",
    and whatever else a dataset adds. Its values are also attributes: `sample.clip`.

    `collate` makes a batch of samples: clip [B, T, C, H, W], mask [B, 1, h, w], other tensors stacked likewise, and
    lists of B values for everything else.
    """

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


# frames [T, H, W] (uint8, or float32 in 0..1), mask bool [H, W] -> clip and mask of `ClipSample`
Transform = Callable[[np.ndarray, np.ndarray, np.random.Generator], tuple[torch.Tensor, torch.Tensor]]


class FrameCache:
    """Decoded frames and masks, read-only; beyond `limit` bytes the least recently used arrays are dropped."""

    def __init__(self, limit: int):
        self.limit = limit
        self.used = 0
        self._entries: OrderedDict[Hashable, np.ndarray] = OrderedDict()

    def read(self, key: Hashable, decode: Callable[[], np.ndarray]) -> np.ndarray:
        """The array under `key`, decoded if it is not in the cache."""
        if key in self._entries:
            self._entries.move_to_end(key)
            return self._entries[key]
        self._entries[key] = array = decode()
        array.flags.writeable = False
        self.used += array.nbytes
        while self.used > self.limit:
            self.used -= self._entries.popitem(last=False)[1].nbytes
        return array


@dataclass(eq=False, repr=False)
class ClipDataset(Dataset):
    """A clip for every frame that has a mask, its target frame: T frames that are `stride` apart (default 1).

    The target frame is number `target` of the clip (default T // 2). Beyond the ends of a sequence, `border` "clamp"
    repeats its first or last frame, and "wrap" continues at its other end (as SGMP-UNet was published).

    The random draws of item i in epoch e depend on (seed, e, i), and on the occurrence if an epoch repeats the item,
    but never on workers or on other items. Call `set_epoch` before each epoch; `persistent_workers` see it, too.

    Frames deeper than 8 bits are mapped to 0..1 by `grey_range`: a range per sequence, a range per frame, or a fixed
    range (see `utils.grey_levels`). The steps of `augment` (see `datasets.augmentations`) act before `transform`.

    `cache_bytes` limits the decoded frames that each worker keeps, over all epochs if workers stay alive.
    """

    sequences: list[Sequence]
    num_frames: int
    transform: Transform
    border: str = "clamp"
    dataset_name: str = ""
    cache_bytes: int = CACHE_BYTES
    seed: int = 0
    grey_range: RangeRule = SEQUENCE
    stride: int = 1
    target: int | None = None
    augment: tuple[Augmentation, ...] = ()

    def __post_init__(self):
        if self.border not in BORDERS:
            raise InputError(f"border {self.border!r} is unknown; expected one of {', '.join(BORDERS)}")
        if self.num_frames < 1:
            raise InputError(f"{self.num_frames} frames a clip; expected at least 1")
        if self.target is None:
            self.target = self.num_frames // 2
        self.targets = [
            (number, index)
            for number, sequence in enumerate(self.sequences)
            for index, frame in enumerate(sequence.frames)
            if frame.has_mask
        ]
        if not self.targets:
            name = self.dataset_name or "the dataset"
            raise InputError(f"no frame of the {len(self.sequences)} sequences of {name} has a mask")
        self.donors = range(len(self.targets))  # items that augmentations may read beside the item itself
        self._cache = FrameCache(self.cache_bytes)
        self._scales: dict[int, GreyScale] = {}
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose random draws the items get."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, item: int) -> ClipSample:
        return self.draw(item)

    def draw(self, item: int, occurrence: int = 0) -> ClipSample:
        """Item `item` as it is drawn in this epoch when it has been drawn `occurrence` times before."""
        number, index = self.targets[item]
        sequence = self.sequences[number]
        target = sequence.frames[index]
        before, after = self.target, self.num_frames - 1 - self.target  # frames beside the target frame
        if self.augment:
            before = after = max(before, after)
        frames, mask = self._read_item(item, before, after)
        repeat = [occurrence] if occurrence else []
        random = np.random.default_rng([self.seed, int(self._epoch), item, *repeat])

        def other() -> tuple[np.ndarray, np.ndarray]:
            return self._read_item(self.donors[int(random.integers(len(self.donors)))], before, after)

        for step in self.augment:
            frames, mask = step(frames, mask, random, other)
        frames = frames[before - self.target :][: self.num_frames]
        clip, mask = self.transform(frames, mask, random)
        names = {"dataset": self.dataset_name, "sequence": sequence.name, "frame": target.name}
        return ClipSample(clip=clip, mask=mask, **names)

    def raw_ranges(self) -> dict[str, GreyRange]:
        """Sequence name -> range, for sequences of several frames whose first frame is deeper than 8 bits.

        Ranges of single images, and of the frames by the rule "frame", are left out.
        """
        ranges = {}
        for number, sequence in enumerate(self.sequences):
            if len(sequence.frames) > 1 and self.grey_range == SEQUENCE:
                first = self._read_pixels(sequence.frames[0])
                if is_raw(first):
                    ranges[sequence.name] = self._scale(number).range_for(first)
        return ranges

    def _read_item(self, item: int, before: int, after: int) -> tuple[np.ndarray, np.ndarray]:
        """The target frame of an item with frames before and after it, and its mask, which may be written to."""
        number, index = self.targets[item]
        sequence = self.sequences[number]
        target = sequence.frames[index]
        window = index + self.stride * np.arange(-before, after + 1)
        indices = np.arange(len(sequence.frames)).take(window, mode="wrap" if self.border == "wrap" else "clip")
        frames = [sequence.frames[i] for i in indices]
        pixels = [self._read_pixels(frame) for frame in frames]
        for frame, array in zip(frames, pixels, strict=True):
            if array.shape != pixels[0].shape:
                first = f"frame {frames[0].image} of the same sequence {size_text(pixels[0])}"
                raise InputError(f"frame {frame.image} is {size_text(array)}, {first}; expected one size")
        if any(map(is_raw, pixels)):
            pixels = [self._scale(number)(array) for array in pixels]
        mask = self._cache.read(("mask", target.image), partial(target.read_mask, pixels[0].shape))
        return np.stack(pixels), mask.copy()

    def _read_pixels(self, frame: Frame) -> np.ndarray:
        return self._cache.read(frame.image, frame.read_image)

    def _scale(self, number: int) -> GreyScale:
        """The grey scale of a sequence, whose range is computed at its first use."""
        if number not in self._scales:
            self._scales[number] = GreyScale(self.grey_range, partial(self._sample, number))
        return self._scales[number]

    def _sample(self, number: int) -> Iterator[np.ndarray]:
        """Frames of a sequence from which its range is computed."""
        sequence = self.sequences[number]
        return map(self._read_pixels, range_frames(sequence.whole or sequence.frames))


def range_lines(datasets: Iterable[ClipDataset]) -> list[str]:
    """A line for each dataset with raw sequences, which reports their ranges."""
    lines = []
    for dataset in datasets:
        if ranges := list(dataset.raw_ranges().values()):
            spans = f"{min(low for low, _ in ranges):.6g} to {max(high for _, high in ranges):.6g}"
            number = f"{dataset.dataset_name}: {counted(len(ranges), 'sequence')} deeper than 8 bits"
            advice = "--range LOW HIGH sets it, --range frame takes one for each frame"
            lines.append(f"{number}, each with one range, all within {spans} ({advice})")
    return lines


def data_lines(dataset: ClipDataset) -> list[str]:
    """Lines to print before a dataset is used, on ranges of raw frames, odd masks, and clips of single images."""
    lines = [*range_lines([dataset]), *mask_lines(dataset.dataset_name, dataset.sequences)]
    if dataset.num_frames > 1 and all(len(sequence.frames) == 1 for sequence in dataset.sequences):
        repeated = f"single images, each of which is all {dataset.num_frames} frames of its clip"
        lines.append(f"{dataset.dataset_name}: {repeated}; the frames of a video belong into images/SEQUENCE/")
    return lines


def collate(samples: list[ClipSample]) -> ClipSample:
    """Batch samples of equal size; raises `InputError` where sizes differ (evaluation of mixed sizes: batch size 1)."""
    for part in ("clip", "mask"):
        shapes = {tuple(sample[part].shape) for sample in samples}
        if len(shapes) > 1:
            advice = "use batch size 1, or a preset with a fixed size"
            raise InputError(f"the {part}s of a batch differ in size: {sorted(shapes)}; {advice}")
    batch = ClipSample()
    for key in samples[0]:
        values = [sample[key] for sample in samples]
        same = all(isinstance(value, torch.Tensor) and value.shape == values[0].shape for value in values)
        batch[key] = torch.stack(values) if same else values
    return batch
