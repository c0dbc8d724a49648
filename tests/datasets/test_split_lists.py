"""Lists of training and test images in all the forms in which people have them."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from istd.datasets import open_dataset
from istd.datasets.split_lists import PUBLISHED_SPLITS
from istd.datasets.usable import trained_on_line, usable_index
from istd.train_script.run_record import data_digest, describe_data, differences
from istd.utils.errors import InputError
from istd.utils.images import read_list
from tests.reference.datasets_folders import (
    REPOSITORY,
    frame_and_mask,
    write_image,
    write_lists,
    write_pairs,
    write_sequences,
)

REAL = Path(os.environ.get("ISTD_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
NAMES = ["XDU0", "XDU1", "XDU3", "XDU5", "mine"]  # XDU0 and XDU1 are published for training, XDU3 and XDU5 for the test


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "IRSTD-1K"
    write_pairs(folder / "images", folder / "masks", NAMES)
    return folder


def parts(folder, **options):
    index = open_dataset(folder, **options)
    return {part: [sequence.name for sequence in sequences] for part, sequences in index.parts.items()}


@pytest.mark.parametrize(
    ("name", "train", "test"), [("NUDT-SIRST", 663, 664), ("IRSTD-1K", 800, 201), ("NUAA-SIRST", 213, 214)]
)
def test_published_lists_of_single_images(name, train, test):
    lists = {part: read_list(PUBLISHED_SPLITS / name / f"{part}.txt") for part in ("train", "test")}
    assert (len(set(lists["train"])), len(set(lists["test"]))) == (train, test)
    assert not set(lists["train"]) & set(lists["test"])


def test_the_published_split_serves_where_there_are_no_lists(root, tmp_path):
    index = open_dataset(root)
    assert parts(root) == {"train": ["XDU0", "XDU1"], "test": ["XDU3", "XDU5"]}
    assert index.split_source == "published (datasets/splits/IRSTD-1K/)"
    other = tmp_path / "NUDT-SIRST"  # other images under a known name
    write_pairs(other / "images", other / "masks", NAMES)
    assert open_dataset(other).split_source.startswith("no list found, a random")


def test_a_test_on_images_of_the_published_training_list_is_said(root):
    write_lists(root, train=["XDU0"], test=["XDU1", "XDU5"])
    index = open_dataset(root)
    line = trained_on_line(index, "test", {"dataset": "data/NUDT-SIRST+irstd-1k"})
    assert line.startswith("warning: 1 of the 2 images of test are in the published training list of IRSTD-1K")
    assert trained_on_line(index, "test", {"dataset": "NUDT-SIRST"}) is None
    assert "1 of the 1 images of train" in trained_on_line(index, "train", {"dataset": "IRSTD-1K"})
    write_lists(root, train=["XDU1"], test=["XDU5"])
    assert trained_on_line(open_dataset(root), "test", {"dataset": "IRSTD-1K"}) is None


def test_a_test_on_the_very_images_of_the_training_is_said(tmp_path):
    write_pairs(tmp_path / "set" / "images", tmp_path / "set" / "masks", list("abcd"))
    write_lists(tmp_path / "set", train=["a", "b"], test=["c", "d"])
    index = open_dataset(tmp_path / "set")
    settings = {
        "data": describe_data([index], {"set": {"train": index.split("train"), "val": index.split("test")[:1]}})
    }
    assert trained_on_line(index, "train", settings) == (
        "warning: the images of train are those on which these weights were trained: the metrics are too good"
    )
    assert trained_on_line(index, "test", settings) == (
        "warning: 1 of the 2 images of test are among those by which these weights were chosen: the metrics are too "
        "good"
    )
    write_lists(tmp_path / "set", train=["a", "b"], test=["c"])
    assert "by which these weights were chosen" in trained_on_line(open_dataset(tmp_path / "set"), "test", settings)


def test_a_test_on_some_images_of_the_training_under_other_names_is_said(tmp_path):
    write_sequences(tmp_path / "trained", ["one", "two", "three"], frames=2)
    write_sequences(tmp_path / "tested", ["a", "b", "c", "d"], frames=2)  # of which three are the same
    trained, tested = open_dataset(tmp_path / "trained"), open_dataset(tmp_path / "tested")
    splits = {"trained": {"train": [sequence for part in trained.parts.values() for sequence in part]}}
    (record,) = describe_data([trained], splits)
    index = replace(tested, parts={"test": [sequence for part in tested.parts.values() for sequence in part]})
    assert trained_on_line(index, "test", {"data": [record]}) == (
        "warning: 3 of the 4 sequences of test are among those on which these weights were trained: the metrics are "
        "too good"
    )
    assert len(record["images"]["train"]) == 3 * 9 - 1, "a few bytes for each image"
    earlier = {name: value for name, value in record.items() if name != "images"}  # checkpoints of earlier versions
    assert trained_on_line(index, "test", {"data": [earlier]}) is None
    assert differences([earlier], [record]) == [] and data_digest([earlier]) == data_digest([record])


def test_later_frames_of_the_sequences_of_the_training_are_new_to_the_weights(tmp_path):
    write_sequences(tmp_path / "set", ["a", "b"], frames=4)
    frames = [frame.stem for frame in sorted((tmp_path / "set" / "images" / "a").iterdir())]
    halves = ([f"{name}/{frame}" for name in "ab" for frame in half] for half in (frames[:2], frames[2:]))
    write_lists(tmp_path / "set", **dict(zip(("train", "test"), halves, strict=True)))
    index = open_dataset(tmp_path / "set")
    assert [len(sequence.frames) for sequence in index.split("test")] == [4, 4], "with the others as context"
    record = describe_data([index], {"set": {"train": index.split("train")}})
    assert trained_on_line(index, "test", {"data": record}) is None
    assert trained_on_line(replace(index, parts={"test": index.split("train")}), "test", {"data": record})


def test_a_black_frame_with_which_several_sequences_begin_recognises_none_of_them(tmp_path):
    write_sequences(tmp_path / "set", list("abcd"), frames=2)
    for name in "abc":
        write_image(tmp_path / "set" / "images" / name / "0.png", np.zeros((32, 40), np.uint8))
    index = open_dataset(tmp_path / "set")
    sequences = {sequence.name: sequence for sequence in index.sequences}
    test = replace(index, parts={"test": [sequences[name] for name in "cd"]})
    for names, line in (("ab", None), ("abd", "warning: 1 of the 2 sequences of test are among those on which")):
        record = describe_data([index], {"set": {"train": [sequences[name] for name in names]}})
        said = trained_on_line(test, "test", {"data": record})
        assert said is None if line is None else said.startswith(line)


def test_other_lists_of_a_known_dataset_are_said(root):
    write_lists(root, train=["XDU0", "XDU3"], test=["XDU1", "XDU5"])
    assert open_dataset(root).split_source == (
        "train.txt, test.txt; NOT the published split (2 / 2), with which published metrics compare; "
        "1 of its 2 test images are for training there"
    )
    write_lists(root, train=["XDU1", "XDU0"], test=["XDU5", "XDU3"])
    assert open_dataset(root).split_source == "train.txt, test.txt"


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train_IRSTD-1K", "test_IRSTD-1K"),
        ("train_list", "test_list"),
        ("ImageSets/Main/train", "ImageSets/Main/val"),
        ("splits/Train", "splits/Test"),
        ("TRAINVAL", "val_irstd-1k"),
        ("training", "testing"),
        ("train", "Validation"),
    ],
)
def test_names_and_places_of_lists(root, train, test):
    for name, entry in ((train, "XDU0"), (test, "mine")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / f"{name}.txt").write_text(entry)
    assert parts(root) == {"train": ["XDU0"], "test": ["mine"]}


def test_lists_that_trainval_contains_are_no_parts(root):
    lists = {"train": NAMES[:2], "val": NAMES[2:3], "trainval": NAMES[:3], "test": NAMES[3:], "val_night": NAMES[3:4]}
    write_lists(root / "ImageSets" / "Main", **lists)
    assert parts(root) == {"train": NAMES[:3], "test": NAMES[3:], "val_night": NAMES[3:4]}


def test_of_several_folders_of_lists_one_must_be_chosen(root):
    write_lists(root / "50_50", train=NAMES[:2], test=NAMES[2:])
    write_lists(root / "80_20", train=NAMES[:4], test=NAMES[4:])
    with pytest.raises(InputError, match="different lists in 50_50, 80_20; choose with --split_folder 50_50"):
        open_dataset(root)
    assert parts(root, split_folder="80_20") == {"train": NAMES[:4], "test": NAMES[4:]}
    with pytest.raises(InputError, match=r"--split_folder 70_30: .* has no such folder"):
        open_dataset(root, split_folder="70_30")
    write_lists(root / "80_20", train=NAMES[:2], test=NAMES[2:])
    assert parts(root) == {"train": NAMES[:2], "test": NAMES[2:]}, "equal lists leave no choice"


def test_a_list_whose_part_is_unknown_is_an_error_instead_of_a_random_split(tmp_path):
    write_pairs(tmp_path / "images", tmp_path / "masks", NAMES)
    write_lists(tmp_path, readme=["Thermal images of ships.", "Please cite us."])
    assert open_dataset(tmp_path).split_source.startswith("no list found")
    write_lists(tmp_path / "lists", part1=NAMES[:3])
    with pytest.raises(InputError, match=r"part1\.txt lists images, but its name does not tell the part"):
        open_dataset(tmp_path)


def test_every_list_is_a_split(tmp_path):
    root = tmp_path / "SIRST3"
    write_pairs(root / "images", root / "masks", NAMES)
    write_lists(root / "img_idx", **{"train_SIRST3": NAMES[:2], "test_SIRST3": NAMES[2:], "test_IRSTD-1K": NAMES[2:4]},
                test_other=["nothing"])  # fmt: skip
    assert parts(root) == {"train": NAMES[:2], "test": NAMES[2:], "test_IRSTD-1K": NAMES[2:4]}
    assert len(usable_index(open_dataset(root), ["test_IRSTD-1K"]).split("test_IRSTD-1K")) == 2


@pytest.mark.parametrize(
    "entry",
    ["./images/XDU1.png", "/home/me/IRSTD/images/XDU1.png", "C:\\data\\images\\XDU1.png",
     "images/XDU1.png masks/XDU1.png",
     "XDU1.png,XDU1_mask.png", "XDU1\tXDU1"],
)  # fmt: skip
def test_forms_of_entries(root, entry):
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"):
        (root / "train.txt").write_text(f"{entry}\r\nXDU0\r\n", encoding=encoding)
        index = open_dataset(root)
        assert [sequence.name for sequence in index.split("train")] == ["XDU1", "XDU0"]
        assert not index.missing_entries


def test_entries_without_a_file_are_said_with_the_nearest_name(root):
    write_lists(root, train=["xdu0", "XDU1"], test=["XDU-3"])
    index = open_dataset(root)
    assert "entries of train WITHOUT A FILE: 1 (first: xdu0; did you mean XDU0?)" in index.summary
    with pytest.raises(InputError, match=r"'test' .* is empty: .*'XDU-3'; did you mean XDU3\?"):
        index.split("test")


def test_a_misspelt_sequence_is_said(tmp_path):
    write_sequences(tmp_path, ["seq1", "other"], frames=2)
    write_lists(tmp_path, train=["other"], test=["SEQ1/0"])
    assert "(first: SEQ1/0; did you mean seq1?)" in open_dataset(tmp_path).summary


@pytest.mark.parametrize(
    "form", ["s/{}", "s/images/{}.png", "images/s/{}.png", "/data/set/images/s/{}.png", "s/{}.png s/{}.png"]
)
def test_frames_of_a_sequence(tmp_path, form):
    write_sequences(tmp_path, ["s", "t"], frames=3)
    write_lists(tmp_path, train=["t"], test=[form.format("1", "1")])
    index = open_dataset(tmp_path)
    assert [frame.mask is not None for frame in index.split("test")[0].frames] == [False, True, False]
    assert "(without 2 frames of listed sequences that are in no list, the first s/0)" in index.summary


def test_unknown_frames_do_not_bring_in_their_sequence(tmp_path):
    for number in range(3):
        frame, mask = frame_and_mask(number)
        for name in ("s", "t"):
            write_image(tmp_path / "images" / name / f"000{number}.png", frame)
            write_image(tmp_path / "masks" / name / f"000{number}.png", mask)
    write_lists(tmp_path, train=["t/0000"], test=["s/0001", "t/000002"])
    index = open_dataset(tmp_path)
    assert [sequence.name for sequence in index.split("test")] == ["s"]
    assert index.missing_entries == {"test": ["t/000002"]}
    assert "did you mean 0002?" in index.summary


def test_a_frame_may_have_the_name_of_a_sequence(tmp_path):
    write_sequences(tmp_path, ["1", "2", "9"], frames=3)
    write_lists(tmp_path, train=["9"], test=["1/2", "2/1", "1/9"])
    index = open_dataset(tmp_path)
    found = {sequence.name: [frame.has_mask for frame in sequence.frames] for sequence in index.split("test")}
    assert found == {"1": [False, False, True], "2": [False, True, False]}
    assert index.missing_entries == {"test": ["1/9"]}


def test_one_list_of_frames_leaves_the_rest_of_their_sequences_to_the_other_part(tmp_path):
    write_sequences(tmp_path, ["s", "t"], frames=3)
    write_lists(tmp_path, test=["s/2"])
    index = open_dataset(tmp_path)
    found = {sequence.name: [frame.mask is not None for frame in sequence.frames] for sequence in index.split("train")}
    assert found == {"s": [True, True, False], "t": [True] * 3}


def test_the_only_sequence_without_lists_is_split_in_time(tmp_path):
    write_sequences(tmp_path, ["s"], frames=5)
    index = open_dataset(tmp_path)
    masks = {part: [frame.has_mask for frame in index.split(part)[0].frames] for part in ("train", "test")}
    assert masks == {"train": [True] * 4 + [False], "test": [False] * 4 + [True]}
    assert "no list found, the first 80% of the only sequence for training" in index.summary
    assert not usable_index(index, ["train", "test"]).left_out


def test_a_single_image_leaves_nothing_for_the_test(tmp_path):
    write_pairs(tmp_path / "images", tmp_path / "masks", ["a"])
    with pytest.raises(
        InputError, match=r"is empty: the dataset has 1 image, but none in this part \(split: no list found"
    ):
        open_dataset(tmp_path).split("test")


def test_stray_files_beside_the_sequences_do_not_count_and_are_said(tmp_path):
    write_sequences(tmp_path, ["a", "b"], frames=3)
    write_image(tmp_path / "images" / "preview.png", frame_and_mask(0)[0])
    index = open_dataset(tmp_path)
    assert index.info.kind == "sequences" and len(index.sequences) == 2
    assert "(without 1 image beside the folders of the sequences)" in index.summary


def test_mdvsfa_as_released(tmp_path):
    for number in range(3):
        frame, mask = frame_and_mask(number)
        write_image(tmp_path / "training" / f"00000{number}_1.png", frame)
        write_image(tmp_path / "training" / f"00000{number}_2.png", mask)
    write_pairs(tmp_path / "test_org", tmp_path / "test_gt", ["00000", "00001"])
    (tmp_path / "training" / "000001_1.png").write_bytes(b"0123456789")
    index = open_dataset(tmp_path)
    assert [sequence.name for sequence in index.split("train")] == [f"train_00000{number}" for number in range(3)]
    assert all(frame.mask for sequence in index.sequences for frame in sequence.frames)
    assert len(index.split("test")) == 2 and not index.masks_without_image
    usable = usable_index(index, ["train", "test"], skip=True)
    assert len(usable.split("train")) == 2 and "its 10 bytes are not a complete png" in usable.left_out[0]


@pytest.mark.skipif(not REAL.is_dir(), reason="real data not present")
@pytest.mark.parametrize("name", ["NUDT-SIRST", "NUAA-SIRST"])
def test_the_lists_shipped_are_those_of_the_data(name):
    index = open_dataset(name, REAL)
    for part in ("train", "test"):
        assert {sequence.name for sequence in index.parts[part]} == set(
            read_list(PUBLISHED_SPLITS / name / f"{part}.txt")
        )
    assert "published" not in index.split_source


def test_lists_in_other_formats_are_said_and_not_read(tmp_path):
    write_pairs(tmp_path / "images", tmp_path / "masks", ["a", "b"])
    for name in ("splits/Train.csv", "instances.json", "test_set.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("a,b")
    source = open_dataset(tmp_path).split_source
    assert source.startswith("no list found (lists are .txt files, not test_set.json, Train.csv), a random 80%")
