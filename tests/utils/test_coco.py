import numpy as np
import pytest

from istd.datasets import open_dataset
from istd.datasets.coco_truth import coco_truth
from istd.utils.coco import encode_rle, region_annotations
from istd.utils.errors import InputError
from istd.utils.files import write_json
from istd.utils.images import read_mask
from tests.reference.datasets_folders import write_lists, write_pairs, write_sequences

mask_util = pytest.importorskip("pycocotools.mask")
coco_module = pytest.importorskip("pycocotools.coco")


@pytest.mark.parametrize("density", [0.0, 0.02, 0.5, 1.0])
def test_run_lengths_are_those_of_pycocotools(density):
    mask = np.random.default_rng(7).random((37, 53)) < density
    theirs = mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert encode_rle(*np.nonzero(mask), mask.shape) == {"size": [37, 53], "counts": theirs["counts"].decode()}


def test_annotations_of_regions_by_hand():
    mask = np.zeros((6, 8), bool)
    mask[0, 0] = mask[1, 1] = True  # touch at a corner: one region
    mask[3:5, 5:8] = True
    first, second = region_annotations(mask)
    assert (first["bbox"], first["area"]) == ([0, 0, 2, 2], 2)
    assert (second["bbox"], second["area"]) == ([5, 3, 3, 2], 6)
    union = mask_util.decode(first["segmentation"]) | mask_util.decode(second["segmentation"])
    assert np.array_equal(union, mask)
    assert region_annotations(np.zeros((3, 3), bool)) == []


def read_by_pycocotools(content, tmp_path):
    write_json(tmp_path / "truth.json", content)
    return coco_module.COCO(str(tmp_path / "truth.json"))


def test_truth_of_a_dataset_from_its_masks(tmp_path):
    index = open_dataset(write_sequences(tmp_path / "set", ["a", "b"], frames=2))
    truth = read_by_pycocotools(coco_truth(index), tmp_path)
    assert [image["file_name"] for image in truth.loadImgs(truth.getImgIds())] == [
        f"images/{sequence}/{frame}.png" for sequence in "ab" for frame in range(2)
    ]
    for annotation in truth.loadAnns(truth.getAnnIds(imgIds=[3])):
        assert np.array_equal(truth.annToMask(annotation), read_mask(tmp_path / "set/masks/b/0.png"))
        assert annotation["area"] == 9
        assert annotation["bbox"][2:] == [3, 3]
    part = coco_truth(index, [index.sequences[1]])
    assert [image["id"] for image in part["images"]] == [3, 4], "a part has the numbers of the whole dataset"


def test_truth_of_a_dataset_from_its_boxes(tmp_path):
    write_pairs(tmp_path / "images", tmp_path / "masks", ["a", "b"])
    write_lists(tmp_path, train=["a"], test=["b"])
    images = [{"id": 70, "file_name": "images/a.png"}, {"id": 80, "file_name": "images/b.png"}]
    boxes = [{"id": 1, "image_id": number, "bbox": [1, 2, 3, 4]} for number in (70, 80)]
    write_json(tmp_path / "boxes.json", {"images": images, "annotations": boxes})
    index = open_dataset(tmp_path)
    truth = coco_truth(index, index.split("test"))
    assert truth == {"images": images[1:], "annotations": boxes[1:]}
    write_json(tmp_path / "boxes.json", {"images": images[:1], "annotations": []})
    with pytest.raises(InputError, match=r"lacks 1 image, the first images/b\.png"):
        coco_truth(index)
