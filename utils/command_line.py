"""The parser of a command, whose help is the docstring of the command's module."""

import argparse

EXAMPLES = "\nExamples:\n"  # begins the end of a docstring, which the help has below the options


def command_parser(module: str, text: str) -> argparse.ArgumentParser:
    """A parser for `python -m MODULE`, whose help has the lines of `text` as they are."""
    description, examples = split_examples(text)
    return argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def split_examples(text: str) -> tuple[str, str | None]:
    """What a help says above and below the options: `text` up to its examples, and these, or None without any."""
    description, heading, examples = text.partition(EXAMPLES)
    return description, f"examples:\n{examples}" if heading else None
