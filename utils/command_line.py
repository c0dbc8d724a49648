"""The parser of a command, whose help is the docstring of the command's module."""

import argparse

EXAMPLES = "\nExamples:\n"  # starts the part of a docstring that `--help` shows below the options


def command_parser(module: str, text: str) -> argparse.ArgumentParser:
    """Build the parser of `python -m MODULE`; its help keeps the line breaks of `text`."""
    description, examples = split_examples(text)
    return argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def split_examples(text: str) -> tuple[str, str | None]:
    """Split a help text into the part above the options and the examples below them, None if there are none."""
    description, heading, examples = text.partition(EXAMPLES)
    return description, f"examples:\n{examples}" if heading else None
