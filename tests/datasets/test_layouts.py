import os
from pathlib import Path

import pytest

from istd.datasets import index as index_module
from istd.datasets import open_dataset
from istd.datasets.catalog import CATALOG
from istd.datasets.index import DATA_ROOT_VARIABLE, split_names
from istd.datasets.path_config import DATASET_PATHS
from istd.datasets.split_lists import PUBLISHED_SPLITS, read_list
from istd.utils.errors import InputError
from istd.utils.names import counted
from tests.reference.datasets_folders import (
    REPOSITORY,
    frame_and_mask,
    write_image,
    write_lists,
    write_pairs,
    write_sequences,
)

NAMES = ["000001", "000002", "000010", "000009"]
REAL = Path(os.environ.get("ISTD_TEST_DATA", REPOSITORY.parent / "shared" / "data"))


@pytest.fixture(autouse=True)
def no_data_root(monkeypatch):
    monkeypatch.delenv(DATA_ROOT_VARIABLE, raising=False)


def names(sequences):
    return [sequence.name for sequence in sequences]


def check_images(root: Path, train: list[str], test: list[str], source: str) -> None:
    index = open_dataset(root)
    assert index.info.kind == "images"
    assert names(index.split("train")) == train
    assert names(index.split("test")) == test
    assert source in index.summary
    assert f"train {counted(len(train), 'image')}, test {counted(len(test), 'image')}" in index.summary
    for sequence in index.sequences:
        (frame,) = sequence.frames
        assert frame.name == sequence.name == frame.image.stem
        assert frame.mask.is_file()


def test_lists_in_img_idx(tmp_path):
    root = tmp_path / "NUDT-SIRST"
    write_pairs(root / "images", root / "masks", NAMES)
    write_lists(
        root / "img_idx",
        **{"train_NUDT-SIRST": ["000010\r", "", "000001.png\r"], "test_NUDT-SIRST": ["000002", "  ", "000009"]},
        train_other=["000001"],
        test_other=["000001"],
    )
    check_images(root, ["000010", "000001"], ["000002", "000009"], "img_idx/train_NUDT-SIRST.txt")
    assert open_dataset(root).info is CATALOG["NUDT-SIRST"]


def test_several_lists_in_img_idx_without_the_datasets_name_are_an_error(tmp_path):
    write_pairs(tmp_path / "images", tmp_path / "masks", NAMES)
    write_lists(tmp_path / "img_idx", train_a=["000001"], test_a=["000002"], train_b=["000001"], test_b=["000002"])
    with pytest.raises(InputError, match="2 train and 2 test lists, none named after"):
        open_dataset(tmp_path)


def test_trainval_and_test_folders(tmp_path):
    for part, part_names in (("trainval", NAMES[:3]), ("test", NAMES[3:])):
        write_pairs(tmp_path / part / "images", tmp_path / part / "masks", part_names)
    check_images(tmp_path, NAMES[:3], NAMES[3:], "split (folders)")


@pytest.mark.parametrize("folder", ["50_50", "idx_427", "."])
@pytest.mark.parametrize("train", ["train", "trainval"])
def test_lists_in_a_folder_or_beside_the_images(tmp_path, folder, train):
    write_pairs(tmp_path / "images", tmp_path / "masks", NAMES, ending=".bmp")
    write_lists(tmp_path / folder, **{train: NAMES[:1], "test": NAMES[1:]})
    check_images(tmp_path, NAMES[:1], NAMES[1:], f"{train}.txt")


@pytest.mark.parametrize(
    ("given", "other"),
    [
        ("test", "train"),
        ("train", "test"),
        ("val", "train"),
        ("img_idx/train_set", "test"),
        ("img_idx/test_x", "train"),
    ],
)
def test_one_list_leaves_the_rest_to_the_other_part(tmp_path, given, other):
    root = tmp_path / "set"
    write_pairs(root / "images", root / "masks", NAMES)
    (root / given).parent.mkdir(exist_ok=True)
    (root / f"{given}.txt").write_text(NAMES[1])
    rest = sorted({*NAMES} - {NAMES[1]})
    train, test = (rest, NAMES[1:2]) if other == "train" else (NAMES[1:2], rest)
    check_images(root, train, test, f"split ({given}.txt, {other} with the rest)")


def test_a_single_list_is_not_taken_where_others_are(tmp_path):
    root = tmp_path / "set"
    write_pairs(root / "images", root / "masks", NAMES)
    write_lists(root / "img_idx", train_set=NAMES[:1], test_other=NAMES[1:2])
    check_images(root, NAMES[:1], NAMES[1:2], "img_idx/train_set.txt, img_idx/test_other.txt")
    (root / "img_idx" / "test_other.txt").unlink()
    write_lists(root, train=NAMES[:2], test=NAMES[2:])
    with pytest.raises(InputError, match="1 train and 0 test lists"):
        open_dataset(root)


def test_a_list_of_all_images_leaves_none_to_train_on(tmp_path):
    write_pairs(tmp_path / "images", tmp_path / "masks", NAMES)
    write_lists(tmp_path, test=NAMES)
    index = open_dataset(tmp_path)
    assert names(index.split("test")) == NAMES
    with pytest.raises(InputError, match="train"):
        index.split("train")


def test_irstd_1k_folder_names(tmp_path):
    root = tmp_path / "IRSTD-1K"
    write_pairs(root / "IRSTD1k_Img", root / "IRSTD1k_Label", ["XDU0", "XDU1", "XDU2"])
    write_lists(root, trainval=["XDU2", "XDU0"], test=["XDU1"])
    check_images(root, ["XDU2", "XDU0"], ["XDU1"], "IRSTD1k_Img/NAME")


def test_masks_named_pixels0(tmp_path):
    write_pairs(tmp_path / "images", tmp_path / "masks", ["Misc_1", "Misc_2"], mask_ending="_pixels0.png")
    write_lists(tmp_path / "idx_427", trainval=["Misc_1"], test=["Misc_2"])
    check_images(tmp_path, ["Misc_1"], ["Misc_2"], "idx_427/trainval.txt")


def test_without_a_list_the_split_is_seeded_and_said(tmp_path):
    write_pairs(tmp_path / "images", tmp_path / "masks", [f"{i:02d}" for i in range(10)])
    index = open_dataset(tmp_path)
    train, test = set(names(index.split("train"))), set(names(index.split("test")))
    assert (len(train), len(test), len(train | test)) == (8, 2, 10)
    assert "split (no list found, a random 80% for training, seed 0)" in index.summary
    assert names(open_dataset(tmp_path).split("test")) == names(index.split("test"))


@pytest.mark.parametrize(("count", "train"), [(1, 1), (2, 1), (3, 2), (4, 3), (10, 8)])
def test_of_two_images_one_is_to_test(tmp_path, count, train):
    write_pairs(tmp_path / "images", tmp_path / "masks", [f"{i:02d}" for i in range(count)])
    parts = open_dataset(tmp_path).parts
    assert (len(parts["train"]), len(parts["test"])) == (train, count - train)


def test_an_archive_in_a_folder_of_its_own(tmp_path):
    write_pairs(tmp_path / "inner" / "images", tmp_path / "inner" / "masks", NAMES)
    write_lists(tmp_path / "inner", train=NAMES[:3], test=NAMES[3:])
    check_images(tmp_path, NAMES[:3], NAMES[3:], "train.txt")


def test_sequence_folders_side_by_side_in_numeric_order(tmp_path):
    write_sequences(tmp_path, ["s2", "s10", "s1"], frames=12)
    index = open_dataset(tmp_path)
    assert index.info.kind == "sequences"
    assert names(index.sequences) == ["s1", "s2", "s10"]
    assert [frame.name for frame in index.sequences[0].frames] == [str(i) for i in range(12)]
    assert "3 sequences, 36 frames" in index.summary


def test_images_and_masks_in_each_sequence(tmp_path):
    for name in ("Sequence1", "Sequence2"):
        write_pairs(tmp_path / name / "images", tmp_path / name / "masks", ["00001", "00002"])
        (tmp_path / name / "Mix").mkdir()
    write_lists(tmp_path, train=["Sequence1"], val=["Sequence2"])
    index = open_dataset(tmp_path)
    assert index.layout == "SEQUENCE/images + SEQUENCE/masks"
    assert names(index.split("test")) == ["Sequence2"]


def test_irdst_brackets_with_and_without_a_space(tmp_path):
    root = tmp_path / "IRDST"
    for sequence in ("44", "2"):
        for number in (1, 2, 10):
            frame, mask = frame_and_mask(number)
            write_image(root / "images" / sequence / f"1 ({number}).bmp", frame)
            write_image(root / "masks" / sequence / f"1({number}).png", mask)
    index = open_dataset(root)
    assert [frame.name for frame in index.sequences[0].frames] == ["1 (1)", "1 (2)", "1 (10)"]
    assert all(frame.mask is not None for sequence in index.sequences for frame in sequence.frames)
    assert names(index.split("train")) == ["2"]
    assert names(index.split("test")) == ["44"]
    assert "N(FRAME)" in index.summary
    assert "entries of test WITHOUT A FILE: 16" in index.summary


def test_the_number_in_the_brackets_orders_frames_whatever_stands_before(tmp_path):
    write_pairs(tmp_path / "images" / "3", tmp_path / "masks" / "3", ["2(1)", "1(2)", "1 (10)", "2(9)"])
    frames = open_dataset(tmp_path).sequences[0].frames
    assert [frame.name for frame in frames] == ["2(1)", "1(2)", "2(9)", "1 (10)"]


def test_lists_that_name_frames_keep_only_their_masks(tmp_path):
    for number in (1, 2, 10):
        frame, mask = frame_and_mask(number)
        write_image(tmp_path / "images" / "44" / f"1({number}).png", frame)
        write_image(tmp_path / "masks" / "44" / f"1({number}).png", mask)
    write_lists(tmp_path, train=["/44/1(10)", "/44/1(1)"], test=["/44/1(2)", "/44/1(99)", "/45/1(1)"])
    index = open_dataset(tmp_path)
    assert [frame.mask is not None for frame in index.split("train")[0].frames] == [True, False, True]
    assert [frame.mask is not None for frame in index.split("test")[0].frames] == [False, True, False]
    assert index.missing_entries == {"test": ["44/1(99)", "45/1(1)"]}


def test_frames_without_a_mask_are_context(tmp_path):
    write_sequences(tmp_path, ["a", "b"])
    (tmp_path / "masks" / "a" / "2.png").unlink()
    index = open_dataset(tmp_path)
    assert [frame.mask is None for frame in index.sequences[0].frames] == [False, False, True, False, False]
    assert "10 frames (9 with mask)" in index.summary


def test_the_published_sequence_split_wins_over_lists_and_says_so(tmp_path):
    root = write_sequences(tmp_path / "NUDT-MIRSDT", ["Sequence1", "Sequence3", "Sequence7", "Sequence9"], frames=1)
    write_lists(root, train=["Sequence3"], test=["Sequence1"])
    index = open_dataset("NUDT-MIRSDT", tmp_path)
    assert names(index.split("train")) == ["Sequence1", "Sequence9"]
    assert names(index.split("test")) == ["Sequence3", "Sequence7"]
    assert "published (SGMP-UNet" in index.summary
    assert "train.txt and test.txt ignored: metrics on another split are not comparable" in index.summary


def test_the_published_split_matches_numbers_of_other_folder_names(tmp_path):
    write_sequences(tmp_path / "TSIRMT", ["2", "00001"], frames=1)
    index = open_dataset("TSIRMT", tmp_path)
    assert names(index.split("test")) == names(index.split("test_snr_below_10")) == ["2"]
    assert names(index.split("train")) == ["00001"]


@pytest.mark.parametrize(("name", "train", "test"), [("IRDST", 41, 17), ("NUDT-MIRSDT", 84, 36), ("TSIRMT", 140, 60)])
def test_published_lists_have_the_published_counts(name, train, test):
    lists = {part: read_list(PUBLISHED_SPLITS / name / f"{part}.txt") for part in ("train", "test")}
    assert (len(set(lists["train"])), len(set(lists["test"]))) == (train, test)
    assert not set(lists["train"]) & set(lists["test"])


def test_the_dim_part_of_tsirmt_is_part_of_its_test_split():
    dim = set(read_list(PUBLISHED_SPLITS / "TSIRMT" / "test_snr_below_10.txt"))
    assert len(dim) == 25
    assert dim <= set(read_list(PUBLISHED_SPLITS / "TSIRMT" / "test.txt"))


def test_missing_entries_are_said(tmp_path):
    write_pairs(tmp_path / "images", tmp_path / "masks", NAMES)
    write_lists(tmp_path, train=[NAMES[0], "lost"], test=NAMES[1:])
    index = open_dataset(tmp_path)
    assert index.missing_entries == {"train": ["lost"]}
    assert "entries of train WITHOUT A FILE: 1 (first: lost)" in index.summary


def test_data_root_wins_over_the_environment(tmp_path, monkeypatch):
    for folder in ("one", "two"):
        write_sequences(tmp_path / folder / "HALMSTAD-IR", ["a", "b"], frames=1)
    monkeypatch.setenv(DATA_ROOT_VARIABLE, str(tmp_path / "one"))
    assert open_dataset("HALMSTAD-IR").root == tmp_path / "one" / "HALMSTAD-IR"
    assert open_dataset("halmstad-ir", tmp_path / "two").root == tmp_path / "two" / "HALMSTAD-IR"


def test_any_folder_under_the_data_root_by_name(tmp_path):
    write_sequences(tmp_path / "mine", ["a", "b"], frames=1)
    assert open_dataset("mine", tmp_path).info.name == "mine"


def test_a_missing_dataset_names_the_file_to_edit_and_the_layouts(tmp_path):
    with pytest.raises(InputError, match=r"datasets/path_config\.py") as error:
        open_dataset("IRDST", tmp_path)
    assert "--data_root" in str(error.value)
    assert "images/SEQUENCE/FRAME.png" in str(error.value)
    assert "\n  download: https://pan.baidu.com/s/1OA9uFtAzkknn3pFYGO4R0Q (code 6m32)" in str(error.value)


def test_a_name_of_path_config_alone_is_a_dataset(tmp_path, monkeypatch):
    """The catalog is for published facts: the kind of any other dataset follows from its layout."""
    assert "My-IR" not in CATALOG
    monkeypatch.setitem(index_module.DATASET_PATHS, "My-IR", str(tmp_path / "somewhere"))
    with pytest.raises(InputError, match=r"^My-IR is not at .*somewhere \(from datasets/path_config\.py\)") as error:
        open_dataset("my-ir")
    assert "download" not in str(error.value)
    with pytest.raises(
        InputError, match=r"^no dataset 'MYIR'; did you mean My-IR\?; expected .*, My-IR, or an existing folder"
    ):
        open_dataset("MYIR")
    write_sequences(tmp_path / "somewhere", ["a", "b"], frames=1)
    index = open_dataset("my-ir")
    assert (index.info.name, index.info.kind, index.root) == ("My-IR", "sequences", tmp_path / "somewhere")


def test_names_are_found_in_any_case(tmp_path, monkeypatch):
    """A line of path_config.py in another case has the catalog's facts, and so does a folder."""
    monkeypatch.delitem(index_module.DATASET_PATHS, "NUDT-SIRST")
    monkeypatch.setitem(index_module.DATASET_PATHS, "nudt-sirst", str(tmp_path / "nudt-sirst"))
    write_pairs(tmp_path / "nudt-sirst" / "images", tmp_path / "nudt-sirst" / "masks", NAMES)
    assert open_dataset("Nudt-Sirst").info is CATALOG["NUDT-SIRST"]
    assert open_dataset(tmp_path / "nudt-sirst").info is CATALOG["NUDT-SIRST"]


def test_an_unknown_name_lists_the_known_ones(tmp_path):
    with pytest.raises(InputError, match=r"did you mean NUDT-SIRST\?.*IRSTD-1K"):
        open_dataset("NUDTSIRST", tmp_path)


def test_an_unknown_layout_says_what_was_found(tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "labels").mkdir()
    with pytest.raises(InputError, match=r"it contains: labels, pictures"):
        open_dataset(tmp_path)


def test_images_without_a_masks_folder_are_no_layout(tmp_path):
    write_image(tmp_path / "images" / "a.png", frame_and_mask(0)[0])
    with pytest.raises(InputError, match=r"it contains: images"):
        open_dataset(tmp_path)


def test_a_dataset_of_the_wrong_kind(tmp_path):
    write_sequences(tmp_path / "NUDT-SIRST", ["a"])
    with pytest.raises(InputError, match=r"is a dataset of images, but .* contains sequences"):
        open_dataset("NUDT-SIRST", tmp_path)


def test_an_empty_split_is_an_error_when_asked_for(tmp_path):
    write_sequences(tmp_path / "NUDT-MIRSDT", ["Sequence1"])
    index = open_dataset("NUDT-MIRSDT", tmp_path)
    with pytest.raises(InputError, match="split 'test' of NUDT-MIRSDT is empty"):
        index.split("test")
    with pytest.raises(InputError, match="has no split 'validation'"):
        index.split("validation")


def test_two_files_of_one_frame_are_an_error(tmp_path):
    write_pairs(tmp_path / "images", tmp_path / "masks", ["a"])
    write_image(tmp_path / "images" / "a.jpg", frame_and_mask(0)[0])
    with pytest.raises(InputError, match="have the same name"):
        open_dataset(tmp_path)


def test_every_dataset_of_the_catalog_has_a_path():
    assert set(CATALOG) <= set(DATASET_PATHS)


@pytest.mark.skipif(not REAL.is_dir(), reason="real data not present")
@pytest.mark.parametrize(
    ("name", "train", "test"), [("NUDT-SIRST", 663, 664), ("NUAA-SIRST", 213, 214), ("HALMSTAD-IR", 16, 8)]
)
def test_real_datasets(name, train, test):
    index = open_dataset(name, REAL)
    assert (len(index.split("train")), len(index.split("test"))) == (train, test)
    assert not index.missing_entries
    assert all(frame.mask is not None for sequence in index.sequences for frame in sequence.frames)


def test_a_folder_with_a_plus_in_its_name_is_one_dataset(tmp_path):
    (tmp_path / "a+b").mkdir()
    assert split_names(str(tmp_path / "a+b")) == [str(tmp_path / "a+b")]
    assert split_names("NUDT-SIRST+IRSTD-1K") == ["NUDT-SIRST", "IRSTD-1K"]


def test_further_folders_beside_train_and_test_are_parts(tmp_path):
    for part in ("train", "test", "val"):
        write_pairs(tmp_path / part / "images", tmp_path / part / "masks", [f"{part}_1"])
    index = open_dataset(tmp_path)
    assert {part: names(sequences) for part, sequences in index.parts.items()} == {
        "train": ["train_1"],
        "test": ["test_1"],
        "val": ["val_1"],
    }
    assert len(index.sequences) == 3 and "folders train/images, test/images, val/images" in index.layout
    write_image(tmp_path / "test" / "images" / "hard" / "1.png", frame_and_mask(0)[0])
    assert "train/images, test/images (without 1 image in folders), val/images" in open_dataset(tmp_path).layout
    write_pairs(tmp_path / "trainval" / "images", tmp_path / "trainval" / "masks", ["train_1", "val_1"])
    assert set(open_dataset(tmp_path).parts) == {"train", "test"}, "trainval/ has the images of train/ and val/"
    images = tmp_path / "trainval" / "images"
    (images / "s").mkdir()
    for name in ("train_1.png", "val_1.png"):
        (images / name).rename(images / "s" / name)
    with pytest.raises(InputError, match=r"contains sequences in trainval/images, images in test/images; expected"):
        open_dataset(tmp_path)


def test_parts_within_images_and_masks(tmp_path):
    for part in ("train", "val"):
        write_pairs(tmp_path / "images" / part, tmp_path / "masks" / part, [f"{part}_1", f"{part}_2"])
    check_images(tmp_path, ["train_1", "train_2"], ["val_1", "val_2"], "split (folders)")
    assert open_dataset(tmp_path).layout == "folders images/train, images/val"
    write_pairs(tmp_path / "images" / "s3", tmp_path / "masks" / "s3", ["1"])
    assert names(open_dataset(tmp_path).sequences) == ["s3", "train", "val"], "names of sequences"


@pytest.mark.parametrize("place", ["{part}/{kind}", "{kind}/{part}"])
def test_folders_of_parts_are_known_in_any_case(tmp_path, place):
    for part, files in (("Train", ["1", "2"]), ("TEST", ["1"])):
        write_pairs(*(tmp_path / place.format(part=part, kind=kind) for kind in ("images", "masks")), files)
    parts = open_dataset(tmp_path).parts
    assert {part: names(sequences) for part, sequences in parts.items()} == {"train": ["1", "2"], "test": ["1"]}


def test_validation_beside_trainval_is_contained_in_it(tmp_path):
    for part in ("trainval", "training", "validation", "test"):
        write_pairs(tmp_path / part / "images", tmp_path / part / "masks", [part])
    assert set(open_dataset(tmp_path).parts) == {"train", "test"}


@pytest.mark.parametrize("place", ["{part}/{kind}", "{kind}/{part}"])
def test_parts_without_one_to_train_on_are_no_sequences(tmp_path, place):
    for part in ("val", "test"):
        write_pairs(*(tmp_path / place.format(part=part, kind=kind) for kind in ("images", "masks")), [part, "1"])
    index = open_dataset(tmp_path)
    found = {part: names(sequences) for part, sequences in index.parts.items()}
    assert found == {"test": ["1", "test"], "val": ["1", "val"]} and index.info.kind == "images"
    with pytest.raises(InputError, match=r"has no split 'train'; expected one of test, val"):
        index.split("train")


def test_a_part_alone_is_no_sequence(tmp_path):
    write_pairs(tmp_path / "train" / "images", tmp_path / "train" / "masks", NAMES)
    index = open_dataset(tmp_path)
    assert (index.info.kind, index.layout) == ("images", "train/images/NAME + train/masks/NAME")
    assert sorted(names(index.sequences)) == sorted(NAMES)


def test_a_sequence_without_a_masks_folder_is_said(tmp_path):
    for name in ("a", "b"):
        write_pairs(tmp_path / name / "images", tmp_path / name / "masks", ["1", "2"])
    write_image(tmp_path / "c" / "images" / "1.png", frame_and_mask(0)[0])
    assert "(without masks/ a folder does not count: c)" in open_dataset(tmp_path).summary


@pytest.mark.parametrize("name", ["images/a.pgm", "images/video/camera/1.png"])
def test_folders_without_images_say_what_they_hold(tmp_path, name):
    (tmp_path / "masks").mkdir()
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).touch()
    with pytest.raises(
        InputError, match=rf"no images in .* \(files: 1 {Path(name).suffix}\); expected files ending in"
    ):
        open_dataset(tmp_path)


def test_a_part_without_masks_names_a_mask_that_has_no_image(tmp_path):
    write_pairs(tmp_path / "images", tmp_path / "masks", NAMES)
    for name in NAMES:
        (tmp_path / "masks" / f"{name}.png").rename(tmp_path / "masks" / f"{name}_gt.png")
    index = open_dataset(tmp_path)
    assert f"masks WITHOUT AN IMAGE: {len(NAMES)} (first: " in index.summary
    with pytest.raises(InputError, match=r"no image of split 'test' .* has a mask, .*_gt\.png; a mask needs the name"):
        index.split("test")


def test_a_folder_of_datasets_is_no_dataset_of_sequences(tmp_path):
    for name in ("A", "B"):
        write_pairs(tmp_path / name / "images", tmp_path / name / "masks", NAMES)
        (tmp_path / name / "img_idx").mkdir()
    write_lists(tmp_path / "B" / "img_idx", train=NAMES[:2], test=NAMES[2:])
    with pytest.raises(InputError, match=r"contains datasets with lists \(B\), .* --data_root .* --dataset B"):
        open_dataset(tmp_path)


def test_the_folder_of_the_images_and_a_file_are_no_dataset(tmp_path):
    write_pairs(tmp_path / "images", tmp_path / "masks", NAMES)
    with pytest.raises(InputError, match=f"did you mean {tmp_path}\\?"):
        open_dataset(tmp_path / "images")
    with pytest.raises(InputError, match=r"000001\.png is a file; expected one of .*, or an existing folder$"):
        open_dataset(tmp_path / "images" / "000001.png")
