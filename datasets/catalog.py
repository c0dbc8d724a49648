"""What each dataset is: facts, no code. Sources: the papers and releases of SGMP-UNet and DATransNet."""

from dataclasses import dataclass
from typing import NamedTuple


class PublishedMetrics(NamedTuple):
    """One published result on a dataset: IoU, nIoU and Pd in percent, Fa x 1e-6, under a protocol of utils.metrics."""

    model: str
    protocol: str
    iou: float
    niou: float
    pd: float
    fa: float


@dataclass(frozen=True)
class DatasetInfo:
    """Facts of a dataset.

    `kind` is "images" or "sequences"; `protocol` the published metric protocol; `preset` and `image_size` the
    published preprocessing (`datasets.presets`) and its input size; `published_split` says that
    `datasets/splits/<name>/` holds the published lists.
    """

    name: str
    kind: str
    protocol: str | None = None
    preset: str | None = None
    image_size: int | None = None
    published_split: bool = False
    metrics: tuple[PublishedMetrics, ...] = ()


def _sgmp(name: str, metrics_2025: tuple[float, ...], metrics_2026: tuple[float, ...]) -> DatasetInfo:
    return DatasetInfo(
        name,
        "sequences",
        protocol="sgmp-2026",
        preset="sgmp_unet",
        image_size=320,
        published_split=True,
        metrics=(
            PublishedMetrics("SGMP-UNet (2025 release)", "sgmp-2025", *metrics_2025),
            PublishedMetrics("SGMP-UNet (2026 release)", "sgmp-2026", *metrics_2026),
        ),
    )


CATALOG = {
    info.name: info
    for info in (
        _sgmp("NUDT-MIRSDT", (74.87, 75.42, 99.48, 2.91), (74.41, 75.02, 99.22, 0.19)),
        _sgmp("IRDST", (60.80, 59.28, 98.68, 17.83), (63.63, 61.18, 97.96, 12.74)),
        _sgmp("TSIRMT", (66.81, 66.81, 89.01, 187.74), (69.58, 69.35, 88.45, 81.04)),
        DatasetInfo("HALMSTAD-IR", "sequences"),
        DatasetInfo("NUDT-SIRST", "images", protocol="datransnet", preset="datransnet", image_size=256),
        DatasetInfo("IRSTD-1K", "images", protocol="datransnet", preset="datransnet", image_size=512),
        DatasetInfo("NUAA-SIRST", "images", protocol="basicirstd"),
        DatasetInfo("demo", "sequences"),
    )
}
