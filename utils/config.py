"""Settings of a command: default file < configuration file < command line, checked against one dataclass.

The dataclass gives names, types and ranges, the default file gives values, and its comments are the text of `--help`:

    # == Optimiser ==
    lr: 0.0005  # learning rate

Its groups are the `# == ... ==` lines. Every name is the same in the dataclass, the files and on the command line.
"""

import argparse
import difflib
import re
import types
import typing
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from utils.errors import InputError
from utils.files import atomic_path

T = TypeVar("T")
GROUP_LINE = re.compile(r"^# == (.+) ==$")
BOOLEANS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
OPTION_LINE = re.compile(r"^(\w+):(?: .*?)?  # (.+)$")


@dataclass(frozen=True)
class Option:
    """One setting as `--help` shows it."""

    name: str
    annotation: Any
    default: Any
    group: str
    help: str


def nearest(name: str, known: typing.Iterable[str]) -> str:
    """', did you mean ...?' for a misspelt name, or '' where nothing known is near it."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""


def convert(name: str, value: Any, annotation: Any) -> Any:
    """`value` (from yaml or the command line) as the annotated type, or `InputError`.

    Types: bool, int, float, str, `Literal` of strings, `list[int]`, `tuple[int, ...]`, dict (a mapping, or texts
    `NAME=VALUE`), any of them `| None` (written `none`), and `Annotated[type, test, text]`: a value that fails the test
    is not what the text says was expected.
    """
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (types.UnionType, typing.Union):
        none = str(value).lower() in ("none", "null")
        return None if none else convert(name, value, next(part for part in parts if part is not type(None)))
    if origin is typing.Annotated:
        kind, allowed, expected = parts
        converted = convert(name, value, kind)
        if not allowed(converted):
            raise InputError(f"{name} is {converted}, expected {expected}")
        return converted
    text = str(value).strip()
    wrong = InputError(f"{name} is {text!r}, expected {describe_type(annotation)}; change it and run again")
    if origin is typing.Literal:
        if text not in parts:
            raise InputError(f"{name} is {text!r}, expected one of {', '.join(parts)}{nearest(text, parts)}")
        return text
    if annotation is dict:
        if isinstance(value, dict):
            return value
        pairs = value if isinstance(value, list) else text.split()
        if not all(isinstance(pair, str) and "=" in pair for pair in pairs):
            raise wrong
        return dict(pair.split("=", 1) for pair in pairs)
    if annotation is bool:
        if text.lower() not in BOOLEANS:
            raise wrong
        return BOOLEANS[text.lower()]
    if origin in (list, tuple):
        items = value if isinstance(value, list | tuple) else text.strip("[]()").replace(",", " ").split()
        return origin(convert(name, item, parts[0]) for item in items)
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        raise wrong
    try:
        return annotation(text)  # int, float or str
    except ValueError:
        raise wrong from None


def describe_type(annotation: Any) -> str:
    """A type as messages and the placeholders of `--help` call it."""
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return describe_type(parts[0])
    if origin in (types.UnionType, typing.Union):
        return " or ".join("none" if part is type(None) else describe_type(part) for part in parts)
    if origin is typing.Literal:
        return "|".join(parts)
    if origin in (list, tuple):
        return f"{describe_type(parts[0])}s"
    return {bool: "true|false", int: "integer", float: "number", str: "text", dict: "NAME=VALUE"}[annotation]


def read_values(
    path: str | Path, kind: type, rename: Callable[[dict[str, Any]], dict[str, Any]] = dict
) -> dict[str, Any]:
    """Settings in a yaml file, converted to the types of the dataclass `kind`.

    `rename` brings settings of earlier versions under today's names.

    Raises `InputError` for a missing or malformed file, an unknown name (with the nearest known one) or a wrong value.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the configuration {path}: {error}; name an existing yaml file") from error
    except yaml.YAMLError as error:
        raise InputError(f"{path} is no valid yaml: {str(error).replace(chr(10), ' ')}; correct that line") from error
    if not isinstance(values, dict | None):
        raise InputError(f"{path} holds a {type(values).__name__}, expected lines of the form `name: value`")
    return check_values(rename(values or {}), typing.get_type_hints(kind, include_extras=True), str(path))


def check_values(values: dict, annotations: dict[str, Any], source: str) -> dict[str, Any]:
    """`values` with every name known and every value converted, or `InputError` naming `source`."""
    for name in values:
        if name not in annotations:
            raise InputError(f"unknown setting {name!r} in {source}{nearest(str(name), annotations)}")
    return {name: convert(f"{name} in {source}", value, annotations[name]) for name, value in values.items()}


def read_options(default_path: str | Path, kind: type) -> list[Option]:
    """The settings of `kind` in the order and with the comments of the default file, which must hold every one."""
    defaults = read_values(default_path, kind)
    annotations = typing.get_type_hints(kind, include_extras=True)
    options, group = [], "Settings"
    for line in Path(default_path).read_text(encoding="utf-8").splitlines():
        if match := GROUP_LINE.match(line):
            group = match[1]
        elif match := OPTION_LINE.match(line):
            name = match[1]
            options.append(Option(name, annotations[name], defaults[name], group, match[2]))
    if missing := set(annotations) - {option.name for option in options}:
        raise InputError(f"{default_path} lacks a commented line for {', '.join(sorted(missing))}; add it")
    return options


class _Parser(argparse.ArgumentParser):
    """argparse whose errors are `InputError`s."""

    def error(self, message: str) -> typing.NoReturn:
        raise InputError(f"{message}; --help lists the options")


def parse_arguments(
    options: list[Option],
    argv: list[str] | None,
    prog: str,
    description: str,
    config_names: list[str],
    aliases: dict[str, tuple[str, Callable[[str], str]]] | None = None,
) -> tuple[str | None, dict[str, Any]]:
    """The command line as (configuration file or None, settings given). Unknown options raise `InputError`.

    `aliases`: options of earlier versions, to today's name and what becomes of the value's text.
    """
    parser = _Parser(
        prog=prog,
        usage=f"{prog} [--config FILE|NAME] [--SETTING VALUE ...]",
        description=description,
        allow_abbrev=False,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=34, width=118),
    )
    text = f"yaml file with settings that differ from the defaults, or one of ours: {', '.join(config_names)}"
    parser.add_argument("--config", metavar="FILE|NAME", help=text)
    groups: dict[str, argparse._ArgumentGroup] = {}
    for option in options:
        if option.group not in groups:
            groups[option.group] = parser.add_argument_group(option.group)
        default = str(option.default).lower() if option.default in (True, False, None) else option.default
        is_list = typing.get_origin(option.annotation) is list
        is_flag = bool in (option.annotation, *typing.get_args(option.annotation))
        words = describe_type(option.annotation).replace(" or none", "")
        groups[option.group].add_argument(
            f"--{option.name}",
            metavar=words if "|" in words else words.upper(),
            nargs="+" if is_list or option.annotation is dict else "?" if is_flag else None,
            action="extend" if option.annotation is dict else "store",
            const=True if is_flag else None,
            default=argparse.SUPPRESS,
            help=f"{option.help} [{default}]".replace("%", "%%"),
        )
    annotations = {option.name: option.annotation for option in options}
    for old, (name, translate) in (aliases or {}).items():
        action = "append" if annotations[name] is dict else "store"
        parser.add_argument(
            f"--{old}", dest=name, action=action, type=translate, default=argparse.SUPPRESS, help=argparse.SUPPRESS
        )
    given, unknown = parser.parse_known_args(argv)
    if unknown and not unknown[0].startswith("-"):
        raise InputError(f"{unknown[0]!r} follows no option; a configuration is given with --config {unknown[0]}")
    if unknown:
        name = unknown[0].split("=")[0].lstrip("-").replace("-", "_")
        known = {option.name for option in options} | {"config", "help"}
        raise InputError(f"unknown option {unknown[0]}{nearest(name, known)}; --help lists the options")
    values = vars(given)
    config = values.pop("config")
    return config, {name: convert(f"--{name}", value, annotations[name]) for name, value in values.items()}


def add_pairs_option(parser: argparse.ArgumentParser, name: str, help: str, shorthands: list[str]) -> None:
    """Add the option `--name NAME=VALUE ...`, to be read as `convert(name, value, dict)`, and shorthands for pairs."""
    parser.add_argument(f"--{name}", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help=help)
    for short in shorthands:
        parser.add_argument(
            f"--{short}", dest=name, action="append", type=f"{short}={{}}".format, help=f"as --{name} {short}=VALUE"
        )


def write_settings(path: str | Path, settings: Any) -> None:
    """Write a settings dataclass as yaml, in the order of its fields (atomic)."""
    with atomic_path(path) as temporary:
        temporary.write_text(yaml.safe_dump(asdict(settings), sort_keys=False), encoding="utf-8")
