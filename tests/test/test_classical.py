import numpy as np
import pytest
from scipy.ndimage import uniform_filter, white_tophat

from istd.test_script.classical import main
from istd.test_script.classical_detectors import ipi, low_rank_and_sparse, mpcm, shrink_singular_values, top_hat
from istd.utils.errors import InputError
from istd.utils.grey_levels import frame_range, sequence_range, to_unit
from istd.utils.images import read_grey, read_pixels
from tests.reference.datasets_folders import write_image, write_lists, write_pairs, write_sequences


def scene(seed=0, shape=(40, 44), at=(20, 30)):
    """A smooth background with noise and a bright 3 x 3 target around the pixel `at`."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    grey = 0.4 + 0.2 * np.sin(rows / 15) * np.cos(columns / 20) + random.normal(0, 0.005, shape)
    grey[at[0] - 1 : at[0] + 2, at[1] - 1 : at[1] + 2] += 0.3
    return grey.astype(np.float32)


@pytest.mark.parametrize("detector", [top_hat, mpcm, ipi])
def test_the_target_responds_most(detector):
    response = detector(scene())
    assert response.dtype == np.float32
    assert response.min() >= 0
    row, column = np.unravel_index(response.argmax(), response.shape)
    assert abs(row - 20) <= 1
    assert abs(column - 30) <= 1


def test_top_hat_is_that_of_scipy():
    assert np.allclose(top_hat(scene()), white_tophat(scene(), size=(9, 9)), atol=1e-6)


def test_mpcm_by_plain_loops():
    grey = scene(1, (20, 24), (10, 12)).astype(np.float64)
    expected = np.zeros(grey.shape)
    for side in (3, 5, 7, 9):
        padded = np.pad(grey, 2 * side, mode="edge")
        means = uniform_filter(padded, side, mode="nearest")
        for row, column in np.ndindex(*grey.shape):
            r, c = row + 2 * side, column + 2 * side
            products = []
            for down, right in ((0, 1), (1, 1), (1, 0), (1, -1)):
                first = means[r, c] - means[r + side * down, c + side * right]
                second = means[r, c] - means[r - side * down, c - side * right]
                products.append(first * second)
            expected[row, column] = max(expected[row, column], min(products))
    assert np.allclose(mpcm(grey), expected, atol=1e-9)
    assert expected.max() > 0.01


def plain_low_rank_and_sparse(matrix, weight, steps=600):
    """The same problem by ADMM with a constant penalty and a full singular value decomposition."""
    penalty = matrix.size / (4 * np.abs(matrix).sum())
    low, sparse, multiplier = np.zeros_like(matrix), np.zeros_like(matrix), np.zeros_like(matrix)
    for _ in range(steps):
        left, values, right = np.linalg.svd(matrix - sparse + multiplier / penalty, full_matrices=False)
        low = (left * np.maximum(values - 1 / penalty, 0)) @ right
        rest = matrix - low + multiplier / penalty
        sparse = np.sign(rest) * np.maximum(np.abs(rest) - weight / penalty, 0)
        multiplier += penalty * (matrix - low - sparse)
    return low, sparse


def test_low_rank_and_sparse_parts_are_those_of_the_plain_form():
    random = np.random.default_rng(3)
    matrix = random.normal(size=(40, 3)) @ random.normal(size=(3, 30))
    spikes = np.zeros(matrix.shape)
    spikes.flat[random.choice(matrix.size, 40, replace=False)] = random.normal(0, 5, 40)
    weight = 1 / np.sqrt(40)
    low, sparse = low_rank_and_sparse(matrix + spikes, weight)
    plain_low, plain_sparse = plain_low_rank_and_sparse(matrix + spikes, weight)
    assert np.allclose(sparse, plain_sparse, atol=1e-3)
    assert np.allclose(low, plain_low, atol=1e-3)
    assert np.allclose(sparse, spikes, atol=1e-3), "here both parts can be recovered"


def test_ipi_of_a_tiny_image_by_the_plain_form():
    grey = scene(2, (26, 24), (13, 12))
    corners = [(r, c) for r in (0, 5, 10, 14) for c in (0, 5, 10, 12)]
    matrix = np.stack([grey[r : r + 12, c : c + 12].ravel() for r, c in corners], axis=1).astype(np.float64)
    _, sparse = plain_low_rank_and_sparse(matrix, 1 / 12)
    expected = np.zeros(grey.shape)
    for row, column in np.ndindex(*grey.shape):
        values = [
            sparse[(row - r) * 12 + column - c, number]
            for number, (r, c) in enumerate(corners)
            if 0 <= row - r < 12 and 0 <= column - c < 12
        ]
        expected[row, column] = max(0, np.median(values))
    assert np.abs(ipi(grey, patch=12, step=5) - expected).max() < 0.02 * expected.max()


@pytest.mark.parametrize("shape", [(30, 12), (12, 30)])
def test_singular_values_are_shrunk_as_by_a_decomposition(shape):
    matrix = np.random.default_rng(5).normal(size=shape)
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    assert np.allclose(shrink_singular_values(matrix, 4.0), (left * np.maximum(values - 4, 0)) @ right)


def test_the_command_writes_a_map_for_each_frame(tmp_path, capsys):
    write_sequences(tmp_path / "set", ["a", "b"], frames=2)
    write_lists(tmp_path / "set", train=["a"], test=["b"])
    options = ["--dataset", str(tmp_path / "set"), "--output_dir", str(tmp_path / "maps")]
    main(["--method", "tophat", *options])
    assert "2 maps" in capsys.readouterr().out
    for number in range(2):
        response = np.load(tmp_path / "maps" / "b" / f"{number}.npy")
        assert np.array_equal(response, top_hat(read_grey(tmp_path / "set" / "images" / "b" / f"{number}.png")))
    np.save(tmp_path / "maps" / "b" / "0.npy", np.zeros(3))
    main(["--method", "tophat", *options])
    assert np.load(tmp_path / "maps" / "b" / "0.npy").shape == (3,), "what is there is kept"
    changed = read_pixels(tmp_path / "set" / "images" / "b" / "0.png")[::-1]
    write_image(tmp_path / "set" / "images" / "b" / "0.png", changed)
    (tmp_path / "last.list").write_text("b/1\n")
    main(["--method", "tophat", *options, "--list", str(tmp_path / "last.list")])
    assert "2 maps in" in capsys.readouterr().out.splitlines()[-2]
    assert [path.name for path in (tmp_path / "maps" / "b").iterdir()] == ["1.npy"]
    np.save(tmp_path / "maps" / "b" / "1.npy", np.zeros(3))
    main(["--method", "tophat", *options, "--split", "train"])
    write_image(tmp_path / "set" / "masks" / "b" / "1.png", np.zeros_like(changed))
    main(["--method", "tophat", *options])
    assert "computed anew" not in capsys.readouterr().out
    assert np.load(tmp_path / "maps" / "b" / "1.npy").shape == (3,), "neither masks nor other splits change a map"
    assert np.array_equal(np.load(tmp_path / "maps" / "b" / "0.npy"), top_hat(to_unit(changed)))
    with pytest.raises(InputError, match="holds a run with method 'tophat', now 'mpcm'"):
        main(["--method", "mpcm", *options])
    (tmp_path / "maps" / "run.json").unlink()
    with pytest.raises(InputError, match=r"holds maps, but no run\.json"):
        main(["--method", "mpcm", *options])


def test_raw_frames_of_a_sequence_have_one_range(tmp_path):
    write_sequences(tmp_path / "set", ["a", "b"], frames=4)
    write_lists(tmp_path / "set", train=["a"], test=["b"])
    raw = np.random.default_rng(0).integers(7000, 7500, (4, 32, 40)).astype(np.uint16)
    raw[2] += 100
    for number in range(4):
        write_image(tmp_path / "set" / "images" / "b" / f"{number}.png", raw[number])
    options = ["--method", "tophat", "--dataset", str(tmp_path / "set")]
    frame = [frame_range(pixels) for pixels in raw]
    for rule, ranges in (("sequence", [sequence_range(raw)] * 4), ("frame", frame)):
        main([*options, "--range", rule, "--output_dir", str(tmp_path / rule)])
        for number in range(4):
            expected = top_hat(to_unit(raw[number], ranges[number]))
            assert np.array_equal(np.load(tmp_path / rule / "b" / f"{number}.npy"), expected)


def test_the_command_takes_a_list_of_images(tmp_path):
    write_pairs(tmp_path / "images", tmp_path / "masks", ["a", "b", "c"])
    write_lists(tmp_path, train=["a"], test=["b", "c"])
    (tmp_path / "few.list").write_text("c\n")
    options = ["--method", "tophat", "--dataset", str(tmp_path), "--output_dir", str(tmp_path / "maps")]
    main([*options, "--list", str(tmp_path / "few.list")])
    assert [path.name for path in (tmp_path / "maps").glob("*.npy")] == ["c.npy"]
    (tmp_path / "none.list").write_text("z\n")
    with pytest.raises(InputError, match="has no z of the list in this split"):
        main([*options, "--list", str(tmp_path / "none.list")])
