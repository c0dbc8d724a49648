"""Print the download links of the datasets and of the authors' checkpoints, as tables in Markdown.

Examples:

    python -m datasets.links
"""

from collections.abc import Iterable

from istd.datasets.catalog import CATALOG, PUBLISHED_CHECKPOINTS, Link
from istd.utils.command_line import command_parser
from istd.utils.errors import run_main


def dataset_table() -> str:
    """Markdown table: every dataset of the catalog, its links, where to unpack it, its line of path_config.py."""
    rows = (
        (name, ", ".join(map(_markdown, info.links)), f"`data/{name}`", f'`"{name}": "data/{name}",`')
        for name, info in CATALOG.items()
    )
    return _table(("dataset", "download", "unpack to", "line of `datasets/path_config.py`"), rows)


def checkpoint_table() -> str:
    """Markdown table: the authors' checkpoints, where to unpack them, the options that give the published metrics."""
    rows = []
    for checkpoint in PUBLISHED_CHECKPOINTS:
        folder = f"data/checkpoints/{checkpoint.model.split(' release')[0].replace(' (', '-')}/{checkpoint.dataset}"
        options = f"`--dataset {checkpoint.dataset} {checkpoint.options}`"
        rows.append((checkpoint.model, checkpoint.dataset, _markdown(checkpoint.link), f"`{folder}`", options))
    command = "after `python -m test_script.inference --model_path FILE`"
    return _table(("network", "trained on", "download", "unpack to", command), rows)


def main(argv: list[str] | None = None) -> None:
    """Print both tables."""
    command_parser("datasets.links", __doc__).parse_args(argv)
    print(f"{dataset_table()}\n{checkpoint_table()}", end="")


def _markdown(link: Link) -> str:
    """The address without its scheme as a Markdown link, then the code."""
    text = f"[{link.url.removeprefix('https://')}]({link.url})"
    return f"{text} (code `{link.code}`)" if link.code else text


def _table(columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = (columns, ("---",) * len(columns), *rows)
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines).replace("| --- ", "|---").replace("--- |", "---|")


if __name__ == "__main__":
    run_main(main)
