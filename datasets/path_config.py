"""Where your datasets lie. This is the one file of `datasets/` that you edit.

One entry per dataset: its name and its folder. Relative paths start at the repository. Any layout that the dataset is
handed around in is recognised; nothing has to be renamed or moved. `--data_root D` and the environment variable
ISTD_DATA_ROOT name a folder that holds the datasets by name, and override this file, in that order.
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
    # rendered here on first use
    "demo": "data/demo",
}
