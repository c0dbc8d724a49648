"""The checks of `make gpu-check`: `ISTD_GPU_CHECK=cuda python -m pytest tests/gpu -n 0 -s`.

The normal suite skips them, and runs a miniature of them on the CPU, or of all with `ISTD_GPU_CHECK=cpu`.
"""

import os

import pytest
import torch

from istd.utils.metrics.tables import text_table
from tests.gpu.checks import CHECKS, Lab, gradients, number_formats, resume_and_predict, twenty_steps

ASKED = os.environ.get("ISTD_GPU_CHECK")


@pytest.fixture(scope="module")
def table():
    """Rows that the checks append, printed at the end."""
    if ASKED == "cuda" and not torch.cuda.is_available():
        pytest.exit(f"no CUDA GPU: torch {torch.__version__} sees none; run `make gpu-check` where there is one", 1)
    lines = []
    yield lines
    if lines:
        kind = torch.cuda.get_device_name() if ASKED == "cuda" else "CPU, a miniature"
        print(f"\n{kind}, torch {torch.__version__}\n{text_table([['check', 'result', ''], *lines])}")


@pytest.mark.skipif(ASKED is None, reason="run by `make gpu-check`, on a machine with a GPU")
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_gpu(check, table, tmp_path):
    lab = Lab(torch.device(ASKED), tmp_path, full=ASKED == "cuda")
    results = []
    try:
        for row in check(lab):
            results.append(row)
            table.append([row[0], row[1], "passed" if row[2] else "FAILED"])
    except Exception as error:
        table.append([check.__name__, f"{type(error).__name__}: {str(error)[:120]}", "FAILED"])
        raise
    assert results and all(fine for *_, fine in results), [what for what, _, fine in results if not fine]


@pytest.mark.skipif(ASKED is not None, reason="all of them run")
@pytest.mark.parametrize("check", [gradients, number_formats, twenty_steps, resume_and_predict])
def test_checks_of_a_gpu_run_on_a_cpu_too(check, tmp_path, capsys):
    results = list(check(Lab(torch.device("cpu"), tmp_path, full=False)))
    assert results and all(fine for *_, fine in results)
