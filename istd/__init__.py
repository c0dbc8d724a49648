"""Infrared small-target detection: networks, data, training, inference, and metrics.

The packages `istd.models`, `istd.datasets`, `istd.train_script`, `istd.test_script` and `istd.utils` are the folders of
the same names beside this one. Under the name `istd` they coexist with other packages called `datasets` or `models`.
"""

from pathlib import Path

__path__.append(str(Path(__file__).resolve().parents[1]))
