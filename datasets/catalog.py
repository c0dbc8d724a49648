"""Published facts about datasets and the authors' checkpoints: protocol, preprocessing, metrics, download links.

A dataset needs no row here: its folder (datasets/path_config.py) is enough. Sources: the papers and releases of
SGMP-UNet and DATransNet, and the pages that the links lead to.
"""

from dataclasses import dataclass
from typing import NamedTuple


class PublishedMetrics(NamedTuple):
    """A published result on a dataset: IoU, nIoU and Pd in percent, Fa x 1e-6, under a protocol of utils.metrics."""

    model: str
    protocol: str
    iou: float
    niou: float
    pd: float
    fa: float


class Link(NamedTuple):
    """A download page; `code` is the access code that Baidu asks for."""

    url: str
    code: str = ""

    def __str__(self) -> str:
        return f"{self.url} (code {self.code})" if self.code else self.url


class PublishedCheckpoint(NamedTuple):
    """The authors' weights of `model` for `dataset`; `options` of test_script.inference give the published metrics."""

    model: str
    dataset: str
    link: Link
    options: str


@dataclass(frozen=True)
class DatasetInfo:
    """Published facts about a dataset.

    `kind` is "images" or "sequences"; `protocol` the published metric protocol; `preset` and `image_size` the
    published preprocessing (`datasets.presets`) and its input size. With `published_split`, the published lists in
    `datasets/splits/<name>/` come before lists in the dataset's folder. `links` lead to its download.
    """

    name: str
    kind: str
    protocol: str | None = None
    preset: str | None = None
    image_size: int | None = None
    published_split: bool = False
    metrics: tuple[PublishedMetrics, ...] = ()
    links: tuple[Link, ...] = ()


SGMP_2025, SGMP_2026, DATRANSNET = "SGMP-UNet (2025 release)", "SGMP-UNet (2026 release)", "DATransNet"
BAIDU = "https://pan.baidu.com/s"
SIRST_ON_BAIDU = Link(f"{BAIDU}/19DOSJZTHC0KO-wKyGRSldQ", "mxhe")


def _sgmp(
    name: str, page: str, code: str, metrics_2025: tuple[float, ...], metrics_2026: tuple[float, ...]
) -> DatasetInfo:
    published = ((SGMP_2025, "sgmp-2025", *metrics_2025), (SGMP_2026, "sgmp-2026", *metrics_2026))
    metrics, links = tuple(PublishedMetrics(*row) for row in published), (Link(f"{BAIDU}/{page}", code),)
    return DatasetInfo(name, "sequences", "sgmp-2026", "sgmp_unet", 320, True, metrics, links)


def _datransnet(name: str, size: int, page: str) -> DatasetInfo:
    return DatasetInfo(name, "images", "datransnet", "datransnet", size, links=(Link(page), SIRST_ON_BAIDU))


DATASETS = (
    _sgmp("NUDT-MIRSDT", "1qrERzVrEYQ7ToRToMuV47Q", "i5ce", (74.87, 75.42, 99.48, 2.91), (74.41, 75.02, 99.22, 0.19)),
    _sgmp("IRDST", "1OA9uFtAzkknn3pFYGO4R0Q", "6m32", (60.80, 59.28, 98.68, 17.83), (63.63, 61.18, 97.96, 12.74)),
    _sgmp("TSIRMT", "1-05XbfxNDRHNtDBstZxccg", "r29f", (66.81, 66.81, 89.01, 187.74), (69.58, 69.35, 88.45, 81.04)),
    _datransnet("NUDT-SIRST", 256, "https://github.com/YeRen123455/Infrared-Small-Target-Detection"),
    _datransnet("IRSTD-1K", 512, "https://github.com/RuiZhang97/ISNet"),
    DatasetInfo("NUAA-SIRST", "images", protocol="basicirstd", links=(Link("https://github.com/YimianDai/sirst"),)),
)
CATALOG = {info.name: info for info in DATASETS}

OPTIONS_2026 = "--flip --msc --protocol sgmp-2026"
OPTIONS_2025 = "--flip --protocol sgmp-2025"
DATRANSNET_PAGE = Link("https://github.com/greekinRoma/DATransNet")

PUBLISHED_CHECKPOINTS = (
    PublishedCheckpoint(SGMP_2026, "NUDT-MIRSDT", Link(f"{BAIDU}/16YvIt1B5kLWtmH0tQi-1oA", "eahf"), OPTIONS_2026),
    PublishedCheckpoint(SGMP_2026, "IRDST", Link(f"{BAIDU}/18xDxPwtBVGlepJ8QllkOPQ", "rgyh"), OPTIONS_2026),
    PublishedCheckpoint(SGMP_2026, "TSIRMT", Link(f"{BAIDU}/1aUGnLjE5jh1Vj-lLhUNzwA", "he34"), OPTIONS_2026),
    PublishedCheckpoint(SGMP_2025, "NUDT-MIRSDT", Link(f"{BAIDU}/1tVov97xd3mHsd61_m7XxUQ", "i58c"), OPTIONS_2025),
    PublishedCheckpoint(SGMP_2025, "IRDST", Link(f"{BAIDU}/10_cUBX2BCjcM6h1nMwcJLw", "uhnj"), OPTIONS_2025),
    PublishedCheckpoint(SGMP_2025, "TSIRMT", Link(f"{BAIDU}/1FgaZFkYIvZG2gDu8iip2Aw", "epsw"), OPTIONS_2025),
    PublishedCheckpoint(DATRANSNET, "NUDT-SIRST", DATRANSNET_PAGE, "--image_size 256 --protocol datransnet"),
    PublishedCheckpoint(DATRANSNET, "IRSTD-1K", DATRANSNET_PAGE, "--image_size 512 --protocol datransnet"),
)
