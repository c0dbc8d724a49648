import sys

import cv2
import numpy as np
import pytest
import scipy.io

from istd.utils.errors import InputError
from istd.utils.metrics.map_files import mask_values, read_map, read_scores

RESPONSES = np.array([[0.0, 7.5, 15.0], [37.5, 30.0, 22.5]])


@pytest.mark.parametrize("suffix", [".npy", ".mat", ".bmp", ".png", ".tif"])
def test_responses_from_every_kind_of_file_are_normalised(tmp_path, suffix):
    path, pixels = tmp_path / f"map{suffix}", (RESPONSES * 2).astype(np.uint8)
    if suffix == ".npy":
        np.save(path, RESPONSES)
    elif suffix == ".mat":
        scipy.io.savemat(path, {"response": RESPONSES, "method": "top-hat", "scale": 3.0})
    else:
        assert cv2.imwrite(str(path), pixels)
    assert np.allclose(read_scores(path, "normalize"), [[0, 0.2, 0.4], [1, 0.8, 0.6]])


def test_mat_files_of_version_7_3_come_out_as_matlab_shows_them(tmp_path):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "map.mat"
    with h5py.File(path, "w", userblock_size=512) as file:
        file["response"] = RESPONSES.T  # as MATLAB stores it
    with open(path, "r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124))
    assert np.array_equal(read_map(path), RESPONSES)


def test_version_7_3_without_h5py_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "map.mat").write_bytes(b"MATLAB 7.3".ljust(512) + b"\x89HDF\r\n\x1a\n")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(InputError, match="needs h5py: pip install h5py, or save it with save -v7"):
        read_map(tmp_path / "map.mat")


def test_a_mat_file_with_several_matrices_is_refused(tmp_path):
    scipy.io.savemat(tmp_path / "two.mat", {"target": RESPONSES, "background": RESPONSES})
    with pytest.raises(InputError, match="matrices target, background; expected one map"):
        read_map(tmp_path / "two.mat")
    (tmp_path / "broken.mat").write_bytes(b"no mat file")
    with pytest.raises(InputError, match=r"cannot read .*broken\.mat"):
        read_map(tmp_path / "broken.mat")


def test_a_constant_response_is_0_and_nan_is_refused(tmp_path):
    np.save(tmp_path / "constant.npy", np.full((2, 3), 7))
    assert not read_scores(tmp_path / "constant.npy", "normalize").any()
    np.save(tmp_path / "nan.npy", np.array([[0.0, np.nan]]))
    with pytest.raises(InputError, match="holds NaN"):
        read_scores(tmp_path / "nan.npy", "normalize")


@pytest.mark.parametrize("scale", ["probability", "logit", "normalize"])
def test_infinite_values_are_refused(tmp_path, scale):
    np.save(tmp_path / "map.npy", np.array([[0.0, np.inf]]))
    with pytest.raises(InputError, match=r"map\.npy holds infinite values"):
        read_scores(tmp_path / "map.npy", scale)


def test_probabilities_that_rounding_took_out_of_range_are_clipped(tmp_path):
    np.save(tmp_path / "map.npy", np.array([[-9e-6, 0.25, 1 + 9e-6]]))
    assert read_scores(tmp_path / "map.npy").tolist() == [[0, 0.25, 1]]
    np.save(tmp_path / "map.npy", np.array([[0.25, np.float32(1.00002)]], np.float32))
    with pytest.raises(InputError, match=r"scores run from 0\.25 to 1\.00002, expected probabilities"):
        read_scores(tmp_path / "map.npy")


def test_responses_that_are_no_probabilities_are_told_to_be_normalised(tmp_path):
    np.save(tmp_path / "map.npy", RESPONSES)
    with pytest.raises(InputError, match=r"run from 0 to 37\.5, expected probabilities in 0\.\.1; .*--normalize"):
        read_scores(tmp_path / "map.npy")
    np.save(tmp_path / "map.npy", RESPONSES - 20)
    with pytest.raises(InputError, match=r"--logits.*--normalize"):
        read_scores(tmp_path / "map.npy")


def test_masks_are_known_by_two_values_over_all_files(tmp_path):
    def write(name, array):
        assert cv2.imwrite(str(tmp_path / name), np.array(array, np.uint8))
        return tmp_path / name

    empty, binary, other = write("a.png", [[0, 0]]), write("b.png", [[0, 1]]), write("c.png", [[0, 255]])
    assert mask_values([empty, binary]) == (0, 1)
    assert read_scores(binary, two_values=(0, 1)).tolist() == [[0, 1]]
    assert read_scores(empty, two_values=(0, 1)).tolist() == [[0, 0]]
    assert mask_values([empty, other]) == (0, 255)
    assert mask_values([binary, other, tmp_path / "not read.png"]) is None, "dim levels of a map, not a mask"
    assert mask_values([empty]) is None
    np.save(tmp_path / "d.npy", np.array([[0.0, 0.3]]))
    assert mask_values([tmp_path / "d.npy"]) is None, "probabilities that say no"
