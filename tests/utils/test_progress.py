"""Lines of progress where there is no terminal."""

import pytest

from istd.utils import progress
from istd.utils.progress import Progress


@pytest.mark.parametrize(("total", "expected"), [(None, "1 frame, "), (1, "1 of 1 frame, "), (2, "1 of 2 frames, ")])
def test_a_line_tells_the_count_and_the_rate(monkeypatch, capsys, total, expected):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    with Progress(total, "clip", "frame") as counter:
        counter.update()
    line = capsys.readouterr().err
    assert line.startswith(f"clip: {expected}") and line.endswith(" per second\n")


def test_lines_are_far_between(capsys):
    with Progress(None, "clip", "frame") as counter:
        for _ in range(100):
            counter.update()
    assert capsys.readouterr().err == ""
