"""Where your datasets are stored: the only file in `datasets/` that you need to edit.

A dataset is one line, its name and its folder; `--dataset NAME` then finds it (in any case), whether or not the catalog
lists it. Relative paths start at the repository. All layouts in which the datasets are distributed are recognised, so
nothing has to be renamed or moved. `--data_root DIR`, or else the environment variable ISTD_DATA_ROOT, names a folder
that contains the datasets by name and overrides this file. Download links: `python -m datasets.links`.
"""

DATASET_PATHS = {
    # sequences
    "NUDT-MIRSDT": "data/NUDT-MIRSDT",
    "IRDST": "data/IRDST",
    "TSIRMT": "data/TSIRMT",
    "HALMSTAD-IR": "data/HALMSTAD-IR",
    # single images
    "NUDT-SIRST": "data/NUDT-SIRST",
    "IRSTD-1K": "data/IRSTD-1K",
    "NUAA-SIRST": "data/NUAA-SIRST",
    # rendered on first use
    "demo": "data/demo",
}
