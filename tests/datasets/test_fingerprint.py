"""The fingerprint of data: the same at another place, another after any change that training would see."""

import hashlib
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np

from istd.datasets import fingerprint as module
from istd.datasets import open_dataset
from istd.datasets.fingerprint import END_BYTES, file_state, fingerprint, image_digests
from istd.datasets.layouts import Frame, Sequence
from istd.datasets.usable import trained_on_line
from istd.train_script.run_record import describe_data, differences
from istd.utils.image_stacks import stack_pages
from tests.reference.datasets_folders import write_lists, write_pairs


def train_fingerprint(root, **options):
    return fingerprint(open_dataset(root).split("train"), **options)


def test_a_copy_is_the_same_data_and_changed_lists_or_masks_are_not(tmp_path):
    names = [f"{index:02d}" for index in range(6)]
    root = tmp_path / "a" / "blobs"
    write_pairs(root / "images", root / "masks", names)
    write_lists(root, train=names[:4], test=names[4:])
    first, with_contents = train_fingerprint(root), train_fingerprint(root, contents=True)
    copied = tmp_path / "b" / "moved"
    shutil.copytree(root, copied, copy_function=shutil.copyfile)
    assert train_fingerprint(copied) == first
    assert train_fingerprint(copied, contents=True) == with_contents != first
    write_lists(copied, train=names[1:5], test=[names[0], names[5]])  # as many, but others
    assert train_fingerprint(copied) != first
    mask = root / "masks" / "00.png"
    content = mask.read_bytes()
    mask.write_bytes(content[:-1] + b"x")
    assert train_fingerprint(root) == first  # of equal size
    assert train_fingerprint(root, contents=True) != with_contents
    mask.write_bytes(content + b"x")
    assert train_fingerprint(root) != first
    (root / "targets.csv").write_text("a")
    tables = [fingerprint([], tables=[root / name]) for name in ("targets.csv", "missing.csv")]
    assert tables[0] != tables[1] == fingerprint([])


def test_large_files_count_as_a_whole_and_in_digests_by_both_ends(tmp_path):
    """Checkpoints hold such digests, so they may not change."""
    file, content = tmp_path / "a.tif", bytearray(2 * END_BYTES + 10)
    file.write_bytes(content)
    before = file_state(file, contents=True), file_state(file, contents=True, ends_only=True)
    assert before[0] == (len(content), hashlib.sha256(content).hexdigest())
    assert before[1] == (len(content), hashlib.sha256(content[: 2 * END_BYTES]).hexdigest())
    for place, changes in ((0, True), (END_BYTES - 1, True), (END_BYTES + 5, False), (-1, True)):
        content[place] = 1
        file.write_bytes(content)
        assert file_state(file, contents=True) != before[0]
        assert (file_state(file, contents=True, ends_only=True) != before[1]) == changes
        content[place] = 0


def test_a_stack_is_read_once_and_a_mask_changed_in_its_middle_is_noticed(tmp_path, monkeypatch):
    file, masks, read = tmp_path / "masks.npy", np.zeros((40, 128, 128), np.uint8), []
    np.save(file, masks)
    frames = tuple(Frame(page.stem, page, page) for page in stack_pages(file))
    before = fingerprint([Sequence("a", frames)], contents=True)
    masks[20, 5, 5] = 1
    np.save(file, masks)
    monkeypatch.setattr(module, "file_state", lambda path, contents: read.append(path) or file_state(path, contents))
    assert fingerprint([Sequence("a", frames)], contents=True) != before and read == [file]


def test_later_pages_of_the_stack_of_the_training_are_new_to_the_weights(tmp_path):
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        np.save(tmp_path / folder / "clip.npy", np.zeros((5, 8, 8), np.uint8))
    index = open_dataset(tmp_path)
    record = describe_data([index], {index.info.name: {"train": index.split("train")}})
    assert trained_on_line(index, "test", {"data": record}) is None
    on_training = replace(index, parts={"test": index.split("train")})
    assert trained_on_line(on_training, "test", {"data": record}).startswith("warning")


def test_the_digest_of_an_image_is_that_of_its_size_and_contents(tmp_path):
    """Checkpoints hold such digests, so they may not change."""
    image = tmp_path / "a.png"
    image.write_bytes(b"pixels")
    state = repr((6, hashlib.sha256(b"pixels").hexdigest()))
    (digest,) = image_digests([Sequence("a", (Frame("a", image, image),))])
    assert digest == hashlib.sha256(state.encode()).hexdigest()[:8]


def test_changed_images_of_equal_size_are_other_data(tmp_path):
    """Both of the training and the held-out images; a record of an earlier version has no digests."""
    image, mask = tmp_path / "a.bmp", tmp_path / "mask.bmp"
    sequence = Sequence("a", (Frame("a", image, mask),))
    mask.write_bytes(b"mask")
    index, records = SimpleNamespace(info=SimpleNamespace(name="X"), split_source="", left_out=()), []
    for content in (b"old", b"new"):
        image.write_bytes(content)
        records.append(describe_data([index], {"X": {"train": [sequence], "val": [sequence]}}))
    before, now = records
    assert differences(before, before) == []
    assert differences(before, now) == [
        f"{kind} images of X (1 then, 1 now, others)" for kind in ("training", "held-out")
    ]
    del before[0]["images"]
    assert differences(before, now) == []
