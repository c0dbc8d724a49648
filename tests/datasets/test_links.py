"""The catalog's download links, as the pages' tables and an error message show them."""

import re

from istd.datasets.catalog import CATALOG, PUBLISHED_CHECKPOINTS
from istd.datasets.links import checkpoint_table, dataset_table, main
from istd.utils.metrics import PROTOCOLS


def test_rows_by_hand():
    assert (
        "| IRDST | [pan.baidu.com/s/1OA9uFtAzkknn3pFYGO4R0Q](https://pan.baidu.com/s/1OA9uFtAzkknn3pFYGO4R0Q) "
        '(code `6m32`) | `data/IRDST` | `"IRDST": "data/IRDST",` |\n'
    ) in dataset_table()
    assert (
        "| DATransNet | IRSTD-1K | [github.com/greekinRoma/DATransNet](https://github.com/greekinRoma/DATransNet) | "
        "`data/checkpoints/DATransNet/IRSTD-1K` | `--dataset IRSTD-1K --image_size 512 --protocol datransnet` |\n"
    ) in checkpoint_table()
    assert "| `data/checkpoints/SGMP-UNet-2025/TSIRMT` | `--dataset TSIRMT --flip --protocol sgmp-2025` |" in (
        checkpoint_table()
    )


def test_both_tables_are_printed_whole(capsys):
    main([])
    assert capsys.readouterr().out == f"{dataset_table()}\n{checkpoint_table()}"
    for table, rows, columns in ((dataset_table(), 6, 4), (checkpoint_table(), 8, 5)):
        lines = table.splitlines()
        assert len(lines) == 2 + rows and {line.count("|") for line in lines} == {columns + 1}
        assert re.fullmatch(r"\|(---\|)+", lines[1])


def test_every_dataset_and_checkpoint_has_its_own_link():
    links = [link for info in CATALOG.values() for link in info.links]
    links += {one.link for one in PUBLISHED_CHECKPOINTS}
    assert all(info.links for info in CATALOG.values())
    urls = [link.url for link in links]
    assert {url for url in urls if urls.count(url) > 1} == {"https://pan.baidu.com/s/19DOSJZTHC0KO-wKyGRSldQ"}
    for link in links:
        assert bool(re.fullmatch(r"[a-z0-9]{4}", link.code)) == link.url.startswith("https://pan.baidu.com/s/")
        assert str(link) == (f"{link.url} (code {link.code})" if link.code else link.url)


def test_the_codes_are_those_the_authors_published():
    links = [*(one.link for one in PUBLISHED_CHECKPOINTS), *(link for info in CATALOG.values() for link in info.links)]
    codes = [link.code for link in dict.fromkeys(links) if link.code]
    assert codes == ["eahf", "rgyh", "he34", "i58c", "uhnj", "epsw", "i5ce", "6m32", "r29f", "mxhe"]


def test_published_metrics_have_a_checkpoint_measured_by_the_same_protocol():
    published = {(one.model, info.name): one.protocol for info in CATALOG.values() for one in info.metrics}
    options = {(one.model, one.dataset): one.options for one in PUBLISHED_CHECKPOINTS}
    assert all(options[key].endswith(f"--protocol {protocol}") for key, protocol in published.items())
    assert all(text.split()[-1] in PROTOCOLS for text in options.values())
