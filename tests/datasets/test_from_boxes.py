import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from istd.datasets import from_boxes, open_dataset
from istd.datasets.boxes.annotations import read_annotations
from istd.datasets.boxes.masks import box_pixels, clip_box, contrast_region
from istd.datasets.boxes.readers import Box
from istd.datasets.check import check_dataset
from istd.utils.errors import InputError
from istd.utils.images import read_mask
from tests.reference.datasets_folders import REPOSITORY, write_image

REAL = Path(os.environ.get("ISTD_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
HEIGHT, WIDTH = 20, 30
TARGET = (slice(5, 8), slice(10, 14))  # 3 rows, 4 columns
BOX = [10, 5, 4, 3]
YOLO_BOX = f"0 {12 / WIDTH} {6.5 / HEIGHT} {4 / WIDTH} {3 / HEIGHT}\n"
CSV_HEADER = "sequence,frame,x0,y0,width,height"
VOC_BOX = "<object><bndbox><xmin>11</xmin><ymin>6</ymin><xmax>14</xmax><ymax>8</ymax></bndbox></object>"


def frame(with_target: bool = True) -> np.ndarray:
    """Background 50, with a target of 200 at `TARGET`."""
    image = np.full((HEIGHT, WIDTH), 50, np.uint8)
    if with_target:
        image[TARGET] = 200
    return image


def write_frames(root: Path, *names: str) -> Path:
    """Images of these names, with a target unless the name ends in "empty"."""
    for number, name in enumerate(names):
        image = frame(not name.endswith("empty"))
        image[0, -1] = number  # no two are equal
        write_image(root / f"{name}.png", image)
    return root


def convert(annotations: Path, images: Path, output: Path, *options: str) -> dict:
    from_boxes.main(["--annotations", str(annotations), "--images", str(images), "--output", str(output), *options])
    return json.loads((output / "boxes.json").read_text())


def boxes_by_name(boxes: dict) -> dict[str, list]:
    names = {image["id"]: image["file_name"] for image in boxes["images"]}
    found: dict[str, list] = {name: [] for name in names.values()}
    for annotation in boxes["annotations"]:
        found[names[annotation["image_id"]]].append(annotation["bbox"])
    return found


def assert_marks_the_target(mask: Path):
    expected = np.zeros((HEIGHT, WIDTH), bool)
    expected[TARGET] = True
    assert np.array_equal(read_mask(mask), expected)


def test_coco_of_sequences_in_folders_with_a_file_for_each_part(tmp_path, capsys):
    names = ["images/train/data6/0", "images/train/data6/10", "images/test/data7/0_empty"]
    images = write_frames(tmp_path / "DAUB", *names)
    for part, files in (("train", names[:2]), ("test", names[2:])):
        entries = [
            {"id": i, "file_name": f"{name}.bmp", "width": WIDTH, "height": HEIGHT} for i, name in enumerate(files)
        ]
        annotations = [{"id": 0, "image_id": 0, "bbox": BOX, "iscrowd": 0, "segmentation": [[]]}] * (part == "train")
        annotations += [{"id": 1, "image_id": 99, "bbox": BOX}]
        (tmp_path / f"instances_{part}2017.json").write_text(
            json.dumps({"images": entries, "annotations": annotations})
        )
    boxes = convert(tmp_path, images, tmp_path / "new")
    assert boxes_by_name(boxes) == {
        "images/data6/0.png": [BOX], "images/data6/10.png": [], "images/data7/0_empty.png": []
    }  # fmt: skip
    said = capsys.readouterr().out
    assert "COCO json: 2 files, 3 annotated images" in said
    assert "3 images of 2 sequences, 1 box, 2 empty images" in said
    assert "annotations without an image: 2" in said
    assert_marks_the_target(tmp_path / "new/masks/data6/0.png")
    assert not read_mask(tmp_path / "new/masks/data6/10.png").any()
    index = open_dataset(tmp_path / "new")
    assert [s.name for s in index.split("train")] == ["data6"]
    assert [s.name for s in index.split("test")] == ["data7"]
    assert list(check_dataset(index)[0]) == ["empty parts"], "the test part has no target"


def test_ids_of_one_coco_file_are_kept(tmp_path):
    write_frames(tmp_path / "photos", "a", "b")
    entries = [{"id": 70, "file_name": "b.jpg"}, {"id": 50, "file_name": "a.jpg"}]
    (tmp_path / "boxes.json").write_text(json.dumps({"images": entries, "annotations": []}))
    boxes = convert(tmp_path / "boxes.json", tmp_path / "photos", tmp_path / "new")
    assert [(image["id"], image["file_name"]) for image in boxes["images"]] == [
        (50, "images/a.png"),
        (70, "images/b.png"),
    ]


def test_yolox_text_with_the_paths_of_another_machine(tmp_path, capsys):
    images = write_frames(tmp_path / "ITSDT" / "images", "1/0", "1/1", "2/0")
    lines = ["/home/public/ITSDT/images/1/0.bmp 10,5,14,8,0 0,0,2,2,0", "/home/public/ITSDT/images/1/1.bmp"]
    (tmp_path / "coco_train_ITSDT.txt").write_text("\n".join(lines))
    (tmp_path / "coco_val_ITSDT.txt").write_text("C:\\ITSDT\\images\\2\\0.bmp 10,5,14,8,0\n/x/images/3/0.bmp 1,2,3,4,0")
    boxes = convert(tmp_path, images, tmp_path / "new")
    assert boxes_by_name(boxes) == {
        "images/1/0.png": [BOX, [0, 0, 2, 2]], "images/1/1.png": [], "images/2/0.png": [BOX]
    }  # fmt: skip
    said = capsys.readouterr().out
    assert "without contrast: 1" in said
    assert "images missing: 1 (first: /x/images/3/0.bmp)" in said
    assert (tmp_path / "new" / "val.txt").read_text() == "2\n"


def test_yolo_labels_where_a_missing_file_means_no_object(tmp_path, capsys):
    images = write_frames(tmp_path / "images", "a", "b", "c")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text(YOLO_BOX)
    (tmp_path / "labels" / "b.txt").write_text("")
    (tmp_path / "labels" / "train.txt").write_text("images/a.png\nimages/b.png\n")
    (tmp_path / "labels" / "test.txt").write_text("images/c.png\n")
    boxes = convert(tmp_path / "labels", images, tmp_path / "new")
    assert boxes_by_name(boxes) == {"images/a.png": [BOX], "images/b.png": [], "images/c.png": []}
    assert "YOLO: 2 files" in capsys.readouterr().out
    assert (tmp_path / "new" / "train.txt").read_text() == "a\nb\n"


@pytest.mark.parametrize("wrong", ["0 .4 .4 .5 .4 .5 .5 .4 .5", "0 .5 .5 .1 .1 .93", "0 .5 .5 .1"])
def test_yolo_labels_with_more_or_less_than_boxes_are_refused(tmp_path, wrong):
    for name, text in (("a", YOLO_BOX), ("train_b", YOLO_BOX + wrong)):
        (tmp_path / f"{name}.txt").write_text(text)
    expected = r"line 2 of .*train_b\.txt is no box; expected five numbers, class cx cy width height; export boxes"
    with pytest.raises(InputError, match=expected):
        read_annotations(tmp_path)
    (tmp_path / "a.txt").unlink()
    (tmp_path / "train_b.txt").write_text(f"\n{wrong}")
    with pytest.raises(InputError, match=expected):
        read_annotations(tmp_path)


def test_files_that_are_no_annotations_are_named(tmp_path, capsys):
    images = write_frames(tmp_path / "images", "a", "b")
    (tmp_path / "labels").mkdir()
    texts = {
        "a.txt": YOLO_BOX,
        "train.txt": "a\n",
        "classes.txt": "drone\n",
        "b.txt": "0,.5,.5,.1,.1\n",
        "b.csv": "x,y\n",
    }
    for name, text in texts.items():
        (tmp_path / "labels" / name).write_text(text)
    convert(tmp_path / "labels", images, tmp_path / "new")
    said = capsys.readouterr().out
    assert f"files that are no annotations, ignored: 2 (first: {tmp_path / 'labels' / 'b.csv'})" in said


def test_yolo_labels_beside_the_images_of_each_part(tmp_path):
    for part in ("train", "valid", "test"):
        write_frames(tmp_path / "export" / part / "images", part, "same")
        (tmp_path / "export" / part / "labels").mkdir()
        for name in (part, "same"):
            (tmp_path / "export" / part / "labels" / f"{name}.txt").write_text(YOLO_BOX if name == part else "")
    boxes = boxes_by_name(convert(tmp_path / "export", tmp_path / "export", tmp_path / "new"))
    for part, name in (("train", "train"), ("val", "valid"), ("test", "test")):
        assert boxes[f"images/{name}_images_{name}.png"] == [BOX] and boxes[f"images/{name}_images_same.png"] == []
        expected = {f"{name}_images_{name}", f"{name}_images_same"}
        assert set((tmp_path / "new" / f"{part}.txt").read_text().split()) == expected


def test_labels_in_other_folders_than_the_images_fit_by_unique_names(tmp_path):
    images = write_frames(tmp_path / "images", "a", "b", "c")
    for name in ("a", "batch/b"):
        (tmp_path / "labels" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "labels" / f"{name}.txt").write_text(YOLO_BOX)
    boxes = boxes_by_name(convert(tmp_path / "labels", images, tmp_path / "new"))
    assert boxes == {"images/a.png": [BOX], "images/b.png": [BOX], "images/c.png": []}
    (tmp_path / "labels" / "other").mkdir()
    (tmp_path / "labels" / "other" / "b.txt").write_text(YOLO_BOX)
    with pytest.raises(InputError, match=r"batch/b is annotated, .*images/b\.png is not, and they have the same name"):
        convert(tmp_path / "labels", images, tmp_path / "newer")


def test_lists_name_images_by_all_of_their_path(tmp_path):
    """Two sequences with the same frame numbers, the second with a frame without a label, and a third in no list."""
    root = tmp_path / "set"
    names = [*(f"s{n}/000{frame}" for n in (1, 2) for frame in range(3)), "s3/0000"]
    images = write_frames(root / "images", *names)
    for name in set(names) - {"s2/0002"}:
        (root / "labels" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "labels" / f"{name}.txt").write_text(YOLO_BOX)
    for part, sequence in (("train", "s1"), ("val", "s2")):
        lines = [f"/home/me/images/{sequence}/000{frame}.jpg\n" for frame in range(3)]
        (root / f"{part}.txt").write_text("".join(lines))
    assert len(boxes_by_name(convert(root, images, tmp_path / "new"))) == 7
    assert [(tmp_path / "new" / f"{part}.txt").read_text() for part in ("train", "val")] == ["s1\n", "s2\n"]
    convert(root, images / "s2", tmp_path / "inside")
    assert (tmp_path / "inside" / "val.txt").read_text() == "0000\n0001\n0002\n"


def test_lists_by_name_alone(tmp_path):
    """Folders in which no image lies say nothing; trainval.txt leaves to val.txt what both have."""
    root = tmp_path / "set"
    images = write_frames(root / "images", "a", "b", "c")
    (root / "labels").mkdir()
    for name in "abc":
        (root / "labels" / f"{name}.txt").write_text(YOLO_BOX)
    for part, lines in (("trainval", "b\nc\n"), ("val", "c\n"), ("test", "other/a.png\n")):
        (root / f"{part}.txt").write_text(lines)
    convert(root, images, tmp_path / "new")
    texts = [(tmp_path / "new" / f"{part}.txt").read_text() for part in ("train", "val", "test")]
    assert texts == ["b\n", "c\n", "a\n"]
    (root / "val.txt").write_text("x/a.png\ny/c.png\n")
    with pytest.raises(InputError, match=r"a may be in .*/test\.txt and in .*/val\.txt; list it in one of them"):
        convert(root, images, tmp_path / "no")


def test_pascal_voc_counts_from_1_and_includes_the_last_pixel(tmp_path):
    images = write_frames(tmp_path / "VOC" / "JPEGImages", "a", "b")
    for name, content in (("a", VOC_BOX), ("b", "")):
        file = tmp_path / "VOC" / "Annotations" / f"{name}.xml"
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"<annotation><filename>{name}.jpg</filename>{content}</annotation>")
    lists = tmp_path / "VOC" / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a\n")
    (lists / "test.txt").write_text("b\n")
    assert boxes_by_name(convert(tmp_path / "VOC", images, tmp_path / "new")) == {
        "images/a.png": [BOX], "images/b.png": []
    }  # fmt: skip
    assert (tmp_path / "new" / "test.txt").read_text() == "b\n"


def test_anti_uav_takes_frames_in_their_order(tmp_path):
    images = write_frames(tmp_path / "uav", "train/S1/000001", "train/S1/000002", "train/S1/000003")
    label = {"exist": [1, 0, 1], "gt_rect": [BOX, [], [0, 0, 0, 0]]}
    (images / "train" / "S1" / "IR_label.json").write_text(json.dumps(label))
    (images / "train" / "S1" / "RGB_label.json").write_text(json.dumps(label | {"exist": [0, 0, 0]}))
    boxes = convert(images, images, tmp_path / "new")
    assert list(boxes_by_name(boxes).values()) == [[BOX], [], []]
    assert "degenerate: 1" in " ".join(boxes["info"]["summary"])
    assert (tmp_path / "new" / "train.txt").read_text() == "S1\n"


def test_csv_of_videos_with_every_second_frame(tmp_path, capsys):
    (tmp_path / "clips").mkdir()
    for name in ("one", "two"):
        video = cv2.VideoWriter(
            str(tmp_path / "clips" / f"{name}.avi"), cv2.VideoWriter_fourcc(*"FFV1"), 25, (WIDTH, HEIGHT)
        )
        for number in range(6):
            video.write(cv2.cvtColor(frame(number < 4), cv2.COLOR_GRAY2BGR))
        video.release()
    rows = [f"one,{number},10,5,4,3" for number in range(4)]
    (tmp_path / "boxes.csv").write_text("\n".join(["sequence,frame,x0,y0,width,height", *rows]))
    boxes = convert(tmp_path / "boxes.csv", tmp_path / "clips", tmp_path / "new", "--stride", "2")
    assert boxes_by_name(boxes) == {
        f"images/one/{number:06d}.png": [BOX] if number < 4 else [] for number in (0, 2, 4)
    }, "frames that the csv does not name are empty, a video that it does not name is left out"
    assert_marks_the_target(tmp_path / "new/masks/one/000002.png")
    assert np.array_equal(cv2.imread(str(tmp_path / "new/images/one/000004.png"), 0), frame(False))
    printed = capsys.readouterr().out
    assert "3 images of 1 sequence, 2 boxes, 1 empty image" in printed
    assert "images that no annotation names, taken as empty: 1 of 3" in printed
    coco = {
        "images": [{"id": 1, "file_name": "frame_000003.PNG"}],  # as CVAT names the frames of a video
        "annotations": [{"image_id": 1, "bbox": BOX}],
    }
    (tmp_path / "instances_default.json").write_text(json.dumps(coco))
    (tmp_path / "numbers.csv").write_text("sequence,frame,x0,y0,width,height\none,0,x,5,4,3")
    with pytest.raises(InputError, match=r"line 2 of .*numbers\.csv: could not convert string to float: 'x'"):
        convert(tmp_path / "numbers.csv", tmp_path / "clips", tmp_path / "no")
    (tmp_path / "numbers.csv").write_text("sequence,frame,x0,y0,width,height\n")
    with pytest.raises(InputError, match=r"numbers\.csv names no image; give annotations that hold boxes"):
        convert(tmp_path / "numbers.csv", tmp_path / "clips", tmp_path / "no")
    (tmp_path / "both.csv").write_text("\n".join(["sequence,frame,x0,y0,width,height", *rows, "two,1,10,5,4,3"]))
    images = convert(tmp_path / "both.csv", tmp_path / "clips", tmp_path / "images", "--kind", "images")
    assert [image["file_name"] for image in images["images"]] == [
        f"images/{name}_{number:06d}.png" for name in ("one", "two") for number in range(6)
    ], "frames of two videos have names of their own"
    capsys.readouterr()
    one = convert(tmp_path / "both.csv", tmp_path / "clips" / "one.avi", tmp_path / "one")
    assert [len(boxes) for boxes in boxes_by_name(one).values()] == [1, 1, 1, 1, 0, 0]
    assert "images missing: 1 (first: two/1)" in capsys.readouterr().out
    single = convert(tmp_path / "instances_default.json", tmp_path / "clips" / "one.avi", tmp_path / "single")
    assert boxes_by_name(single) == {"images/one/000003.png": [BOX]}
    assert_marks_the_target(tmp_path / "single/masks/one/000003.png")


def test_files_of_the_same_name_are_refused(tmp_path):
    images = write_frames(tmp_path / "frames", "s/0", "s/1")
    cv2.imwrite(str(images / "s" / "0.bmp"), frame())
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "1.txt").write_text("")
    with pytest.raises(InputError, match=r"s/0\.(png|bmp) and .*s/0\.(png|bmp) have the same name; rename or remove"):
        convert(tmp_path / "labels", images / "s", tmp_path / "new")


def test_the_end_of_a_single_sequence_is_to_test(tmp_path, capsys):
    images = write_frames(tmp_path / "frames", *(f"s/{number}" for number in range(5)))
    (tmp_path / "boxes.csv").write_text("sequence,frame,x0,y0,width,height\ns,0,10,5,4,3\n")
    convert(tmp_path / "boxes.csv", images, tmp_path / "new")
    assert "train 4 images, test 1 image (the end of the only sequence is the test part)" in capsys.readouterr().out
    assert (tmp_path / "new" / "train.txt").read_text() == "s/0\ns/1\ns/2\ns/3\n"
    index = open_dataset(tmp_path / "new")
    assert [[f.name for f in s.frames if f.mask] for s in index.split("test")] == [["4"]]


def test_a_csv_of_a_spreadsheet(tmp_path):
    """Semicolons and decimal commas, or tabs; quotes around names, which may hold what separates."""
    images = write_frames(tmp_path / "frames", "s;1/0000", "s;1/0001")
    path = tmp_path / "boxes.csv"
    path.write_text('\ufeff"frame";"sequence";x0;y0;width;height\n0;"s;1";10,0;5;4;3,0\n', encoding="utf-8")
    assert boxes_by_name(convert(path, images, tmp_path / "german")) == {
        "images/s;1/0000.png": [BOX], "images/s;1/0001.png": []
    }  # fmt: skip
    path.write_text("sequence\tframe\tx0\ty0\twidth\theight\ns;1\t0\t10\t5\t4\t3\n")
    assert boxes_by_name(convert(path, images, tmp_path / "tabs"))["images/s;1/0000.png"] == [BOX]
    path.write_text("sequence,frame,x0,y0,width,height\ns;1,0,10,0,5,4,3,0\n")
    with pytest.raises(InputError, match=r"line 2 of .*boxes\.csv: more cells than columns; correct it"):
        convert(path, images, tmp_path / "no")
    path.write_text("sequence,frame,x0,y0,width,height\ns;1,0,10,5,4\n")
    with pytest.raises(InputError, match=r"line 2 of .*boxes\.csv: could not convert string to float: 'None'"):
        convert(path, images, tmp_path / "no")


def test_frames_of_a_csv_by_number_or_file(tmp_path):
    images = write_frames(tmp_path / "frames", "s/0000", "s/0002", "t/img_0007")
    rows = ["s,0,10,5,4,3", "s,0002.png,1,1,2,2", "t,7,10,5,4,3"]
    (tmp_path / "boxes.csv").write_text("\n".join(["sequence, frame, x0, y0, width, height", *rows]))
    boxes = convert(tmp_path / "boxes.csv", images, tmp_path / "new")
    assert boxes_by_name(boxes) == {
        "images/s/0000.png": [BOX], "images/s/0002.png": [[1, 1, 2, 2]], "images/t/img_0007.png": [BOX]
    }  # fmt: skip


def test_a_number_that_fits_two_files_is_refused_unless_their_folders_differ(tmp_path):
    images = write_frames(tmp_path / "frames", "train/1/img_1", "test/1/img_1", "2/IR_0000", "2/VIS_0000")
    path = tmp_path / "boxes.csv"
    path.write_text(f"{CSV_HEADER}\ntrain/1,1,10,5,4,3\ntest/1,1,1,1,2,2\n")
    boxes = boxes_by_name(convert(path, images, tmp_path / "new"))
    assert boxes == {"images/train_1/img_1.png": [BOX], "images/test_1/img_1.png": [[1, 1, 2, 2]]}
    for sequence, frame in ((1, 1), (2, 0)):
        path.write_text(f"{CSV_HEADER}\n{sequence},{frame},10,5,4,3\n")
        with pytest.raises(InputError, match=rf"several files in .*frames may be {sequence}/{frame}; give a folder"):
            convert(path, images, tmp_path / "no")


def test_a_folder_of_another_name_takes_the_annotations_of_a_single_sequence(tmp_path, capsys):
    images = write_frames(tmp_path / "s", *(str(number) for number in range(3)))
    (tmp_path / "boxes.csv").write_text(f"{CSV_HEADER}\nt,1,10,5,4,3\n")
    assert boxes_by_name(convert(tmp_path / "boxes.csv", images, tmp_path / "single"))["images/s/1.png"] == [BOX]
    (tmp_path / "boxes.csv").write_text(f"{CSV_HEADER}\ns,0,10,5,4,3\nt,1,10,5,4,3\n")
    boxes = boxes_by_name(convert(tmp_path / "boxes.csv", images, tmp_path / "named"))
    assert boxes == {"images/s/0.png": [BOX], "images/s/1.png": [], "images/s/2.png": []}
    assert "images missing: 1 (first: t/1)" in capsys.readouterr().out
    (tmp_path / "boxes.csv").write_text(f"{CSV_HEADER}\nt,0,10,5,4,3\nu,1,10,5,4,3\n")
    with pytest.raises(InputError, match=r"has none of the annotated images \(2, the first t/0\)"):
        convert(tmp_path / "boxes.csv", images, tmp_path / "no")


def test_an_interrupted_run_goes_on(tmp_path, monkeypatch, capsys):
    images = write_frames(tmp_path / "frames", *(f"s{n}/0" for n in range(4)))
    rows = [f"s{n},0,10,5,4,3" for n in range(4)]
    (tmp_path / "boxes.csv").write_text("\n".join(["sequence,frame,x0,y0,width,height", *rows]))
    expected = convert(tmp_path / "boxes.csv", images, tmp_path / "at_once")
    real, calls = from_boxes._convert, []

    def fail_once(items, *rest):
        calls.append(items[0].sequence)
        if items[0].sequence == "s2" and calls.count("s2") == 1:
            raise KeyboardInterrupt
        return real(items, *rest)

    monkeypatch.setattr(from_boxes, "_convert", fail_once)
    monkeypatch.setattr(from_boxes, "WORKERS", 1)
    with pytest.raises(KeyboardInterrupt):
        convert(tmp_path / "boxes.csv", images, tmp_path / "new")
    with pytest.raises(InputError, match="was begun with other annotations, images or options"):
        convert(tmp_path / "boxes.csv", images, tmp_path / "new", "--masks", "box")
    assert convert(tmp_path / "boxes.csv", images, tmp_path / "new") == expected
    assert calls.count("s0") == 1, "what is done is not done again"
    convert(tmp_path / "boxes.csv", images, tmp_path / "new")
    assert "is complete" in capsys.readouterr().out
    with pytest.raises(InputError, match="holds something else"):
        convert(tmp_path / "boxes.csv", images, tmp_path / "new", "--masks", "box")


def test_several_formats_and_none_are_refused(tmp_path):
    (tmp_path / "a.csv").write_text("sequence,frame,x0,y0,width,height\n")
    (tmp_path / "a.xml").write_text("<annotation/>")
    with pytest.raises(InputError, match="several formats: 1 of csv, 1 of Pascal VOC"):
        read_annotations(tmp_path)
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "a.json").write_text('{"shapes": []}')
    with pytest.raises(InputError, match="no annotations recognised"):
        read_annotations(tmp_path / "none")


def test_a_file_is_not_taken_for_one_of_the_same_name_in_another_folder(tmp_path):
    images = write_frames(tmp_path / "images", "1/0")
    (tmp_path / "list.txt").write_text("/x/2/0.bmp 1,2,3,4,0")
    with pytest.raises(InputError, match=r"has none of the annotated images \(1, the first /x/2/0\.bmp\)"):
        convert(tmp_path / "list.txt", images, tmp_path / "new")


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        (Box(1, 2, 3, 4), (Box(1, 2, 3, 4), None)),
        (Box(-1, 2, 3, 4), (Box(0, 2, 2, 4), "clipped")),
        (Box(28, 18, 5, 5), (Box(28, 18, 2, 2), "clipped")),
        (Box(30, 2, 3, 4), (None, "outside")),
        (Box(1, 2, 0, 4), (None, "degenerate")),
        (Box(float("nan"), 2, 3, 4), (None, "degenerate")),
    ],
)
def test_boxes_are_clipped_to_the_image(box, expected):
    assert clip_box(box, HEIGHT, WIDTH) == expected


def mask_of(kind, pixels, box):
    mask = np.zeros(pixels.shape, int)
    mask[box_pixels(kind, pixels, box)] = 1
    return mask


def test_filled_boxes_and_discs_by_hand():
    pixels = np.zeros((6, 7), np.uint8)
    assert np.argwhere(mask_of("box", pixels, Box(1.6, 2, 2, 1))).tolist() == [[2, 2], [2, 3]], "centres 2.5 and 3.5"
    assert mask_of("box", pixels, Box(1.6, 2.6, 0.2, 0.2)).sum() == 1, "a box between the centres has a pixel"
    disc = [[0, 1, 1, 1, 0], [1, 1, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 1, 1, 1], [0, 1, 1, 1, 0]]
    assert mask_of("disc", pixels, Box(1, 0, 5, 5))[:5, 1:6].tolist() == disc


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
def test_contrast_takes_what_is_above_half_of_either_polarity(kind, sign):
    pixels = np.full((HEIGHT, WIDTH), 120, kind)
    pixels[6, 10:14] = 120 + sign * np.array([40, 100, 60, 49])
    pixels[2, 2] = 120 + sign * 110  # outside the box
    rows, columns = contrast_region(pixels, Box(9, 5, 6, 3))
    assert (rows.tolist(), columns.tolist()) == ([6, 6], [11, 12])


def test_a_box_without_contrast_has_no_mask():
    pixels = np.full((HEIGHT, WIDTH), 120, np.uint8)
    pixels[6, 11] = 122
    assert len(contrast_region(pixels, Box(9, 5, 6, 3))[0]) == 0
    noise = np.random.default_rng(0).normal(0, 30, (HEIGHT, WIDTH)).astype(np.float32)
    noise[6, 11] = 200
    assert len(contrast_region(noise, Box(9, 5, 6, 3))[0]) >= 1
    noise[4:9, 8:16] = 0
    assert len(contrast_region(noise, Box(10, 5, 4, 3))[0]) == 0, "below 3 times the noise"


@pytest.mark.parametrize("fault", [16383, 0, np.nan, np.inf, -9999.0])
def test_bad_pixels_and_nodata_are_no_targets(tmp_path, fault):
    """A pixel in the box, beside the target, and for nodata the border of the image too."""
    image = 7000 + np.random.default_rng(0).normal(0, 20, (HEIGHT, WIDTH)).astype(np.float32)
    image[TARGET] += 400
    image = image.round().astype(np.uint16) if isinstance(fault, int) else image
    image[5, 16] = fault
    if not isinstance(fault, int):
        image[:, :8] = fault
    write_image(tmp_path / "images" / "clip" / "0.tiff", image)
    (tmp_path / "boxes.csv").write_text(f"{CSV_HEADER}\nclip,0,9,4,9,5\n")
    convert(tmp_path / "boxes.csv", tmp_path / "images", tmp_path / "new")
    assert_marks_the_target(tmp_path / "new" / "masks" / "clip" / "0.png")
    assert len(contrast_region(np.full((9, 9), np.nan, np.float32), Box(3, 3, 2, 2))[0]) == 0


@pytest.mark.skipif(not REAL.is_dir(), reason="real data not present")
def test_real_boxes_give_nearly_the_masks_of_the_dataset(tmp_path):
    source, name = REAL / "HALMSTAD-IR", "IR_BIRD_014"
    rows = [row for row in (source / "boxes.csv").read_text().splitlines() if row.startswith(("sequence", name))]
    (tmp_path / "boxes.csv").write_text("\n".join(rows))
    convert(tmp_path / "boxes.csv", source / "images", tmp_path / "new", "--stride", "10")
    masks = sorted((tmp_path / "new" / "masks" / name).iterdir())
    assert len(masks) == 5
    for path in masks:
        ours, theirs = read_mask(path), read_mask(source / "masks" / name / path.name)
        assert (ours & theirs).sum() >= 0.9 * (ours | theirs).sum()


def test_a_video_of_16_bits_keeps_them(tmp_path):
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "raw.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "gray16le"
        for packet in stream.encode(av.VideoFrame.from_ndarray(frame().astype(np.uint16) * 4 + 7000, "gray16le")):
            container.mux(packet)
        container.mux(stream.encode())
    (tmp_path / "boxes.csv").write_text("sequence,frame,x0,y0,width,height\nraw,0,10,5,4,3\n")
    convert(tmp_path / "boxes.csv", tmp_path / "raw.mkv", tmp_path / "new", "--kind", "sequences")
    image = cv2.imread(str(tmp_path / "new" / "images" / "raw" / "000000.png"), cv2.IMREAD_UNCHANGED)
    assert (image.dtype, image.min(), image.max()) == (np.uint16, 7200, 7800)
    assert_marks_the_target(tmp_path / "new" / "masks" / "raw" / "000000.png")
