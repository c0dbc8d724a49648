"""The fingerprint of data: the same at another place, another after any change that training would see."""

import os
import shutil

from istd.datasets import open_dataset
from istd.datasets.fingerprint import fingerprint
from tests.reference.datasets_folders import write_lists, write_pairs


def train_fingerprint(root, **given):
    return fingerprint(open_dataset(root).split("train"), **given)


def test_a_copy_is_the_same_data_and_changed_lists_or_masks_are_not(tmp_path):
    names = [f"{index:02d}" for index in range(6)]
    root = tmp_path / "a" / "blobs"
    write_pairs(root / "images", root / "masks", names)
    write_lists(root, train=names[:4], test=names[4:])
    first = train_fingerprint(root)
    copied = tmp_path / "b" / "moved"
    shutil.copytree(root, copied, copy_function=shutil.copyfile)
    assert train_fingerprint(copied) == first
    assert train_fingerprint(root, times=True) != first
    os.utime(copied / "masks" / "00.png", (0, 0))
    assert train_fingerprint(copied) == first
    assert train_fingerprint(copied, times=True) != train_fingerprint(root, times=True)
    write_lists(copied, train=names[1:5], test=[names[0], names[5]])  # as many, but others
    assert train_fingerprint(copied) != first
    mask = root / "masks" / "00.png"
    mask.write_bytes(mask.read_bytes() + b"\0")
    assert train_fingerprint(root) != first
