"""Settings of a command: default file < configuration file < command line, checked against one dataclass.

The dataclass gives names, types and ranges, the default file gives values, and its comments are the text of `--help`:

    # == Optimiser ==
    lr: 0.0005  # learning rate

Its groups are the `# == ... ==` lines. Every name is the same in the dataclass, the files and on the command line.
"""

import argparse
import difflib
import inspect
import math
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from istd.utils.command_line import split_examples
from istd.utils.errors import InputError
from istd.utils.files import atomic_path

GROUP_LINE = re.compile(r"^# == (.+) ==$")
BOOLEANS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
OPTION_LINE = re.compile(r"^(\w+):(?: .*?)?  # (.+)$")


class PlainLoader(yaml.SafeLoader):
    """Yaml that refuses repeated keys, and aliases, which can expand without bounds."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Refuse an alias, such as `*name`."""
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.constructor.ConstructorError(None, None, "an alias (*name), which settings do not take", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        """Refuse a repeated key."""
        names = [key.value for key, _ in node.value]
        for place, (key, _) in enumerate(node.value):
            if isinstance(key.value, str) and key.value in names[:place]:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} appears twice", key.start_mark)
        return super().construct_mapping(node, deep)


def nearest(name: str, known: Iterable[str]) -> str:
    """'; did you mean ...?' with the known name nearest to a misspelt name, in any case, or '' if none is near."""
    by_case = {candidate.lower(): candidate for candidate in known}
    close = difflib.get_close_matches(name.lower(), by_case, n=1, cutoff=0.5)
    return f"; did you mean {by_case[close[0]]}?" if close else ""


def convert(name: str, value: Any, annotation: Any) -> Any:
    """`value` (from yaml or the command line) as the annotated type, or `InputError`.

    Types: bool, int, float, str, `Literal` of strings, `list[int]`, `tuple[int, ...]`, dict (a mapping, or texts
    `NAME=VALUE`), any of them `| None`, and `Annotated[type, test, text]`, whose text tells what is expected where a
    value fails the test. For `Annotated[type, function]`, the function is applied first. `none` stands for None, and
    for the empty list or dict.
    """
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if (annotation is dict or origin is list) and is_none(value):
        return (origin or dict)()
    if origin in (types.UnionType, typing.Union):
        return None if is_none(value) else convert(name, value, next(part for part in parts if part is not type(None)))
    if origin is typing.Annotated:
        if len(parts) == 2:
            return convert(name, parts[1](value), parts[0])
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
    if origin in (list, tuple):
        items = value if isinstance(value, list | tuple) else text.strip("[]()").replace(",", " ").split()
        return origin(convert(name, item, parts[0]) for item in items)
    if not isinstance(value, str | int | float) or (isinstance(value, bool) and annotation is not bool):
        raise wrong
    try:
        converted = BOOLEANS[text.lower()] if annotation is bool else annotation(text)  # int, float or str
    except (KeyError, ValueError):
        raise wrong from None
    if annotation is float and not math.isfinite(converted):
        raise wrong
    return converted


def is_none(value: Any) -> bool:
    """Whether a value is `none`, alone or as the only item of a list, which is what the command line makes of it."""
    value = value[0] if isinstance(value, list) and len(value) == 1 else value
    return str(value).lower() in ("none", "null")


def convert_options(owner: str, options: dict[str, Any], known: Mapping[str, inspect.Parameter]) -> dict[str, Any]:
    """Convert the options of a loss or a network (`owner`), which may be text, to the types of its `known` parameters.

    Raises `InputError` for unknown options and for values of other types.
    """
    if unknown := sorted(set(options) - set(known)):
        listing = ", ".join(known) or "none"
        names = ", ".join(unknown)
        raise InputError(f"{owner} has no option {names!r}{nearest(names, known)}; its options: {listing}")
    return {
        name: convert(f"option {name} of {owner}", value, known[name].annotation) for name, value in options.items()
    }


def describe_type(annotation: Any) -> str:
    """The name of a type in messages and in `--help`."""
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


def describe_default(value: Any) -> str:
    """A default value as text, as a user would write it on the command line."""
    if isinstance(value, dict):
        value = [f"{name}={item}" for name, item in value.items()]
    if isinstance(value, list):
        return " ".join(str(item) for item in value) or "none"
    return str(value).lower() if value in (True, False, None) else str(value)


def read_values(
    path: str | Path, kind: type, rename: Callable[[dict[str, Any]], dict[str, Any]] = dict
) -> dict[str, Any]:
    """Read settings from a yaml file and convert them to the types of the dataclass `kind`.

    `rename` replaces the names that earlier versions used. Raises `InputError` for a missing or malformed file, an
    unknown name, or a wrong value.
    """
    try:
        values = yaml.load(Path(path).read_text(encoding="utf-8"), PlainLoader)
    except RecursionError as error:
        raise InputError(f"{path} is nested too deeply; expected lines of the form `name: value`") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the configuration {path}: {error}; name an existing yaml file") from error
    except yaml.YAMLError as error:
        raise InputError(f"{path} is no valid yaml: {str(error).replace(chr(10), ' ')}; correct that line") from error
    if not isinstance(values, dict | None):
        raise InputError(f"{path} holds a {type(values).__name__}, expected lines of the form `name: value`")
    return check_values(rename(values or {}), typing.get_type_hints(kind, include_extras=True), str(path))


def check_values(values: dict, annotations: dict[str, Any], source: str) -> dict[str, Any]:
    """Convert all values; raises `InputError`, which names `source`, for an unknown name or a wrong value."""
    for name in values:
        if name not in annotations:
            raise InputError(f"unknown setting {name!r} in {source}{nearest(str(name), annotations)}")
    return {name: convert(f"{name} in {source}", value, annotations[name]) for name, value in values.items()}


def parse_arguments(
    default_path: str | Path,
    kind: type,
    argv: list[str] | None,
    prog: str,
    description: str,
    config_names: list[str],
    aliases: dict[str, tuple[str, Callable[[str], str]]] | None = None,
) -> tuple[str | None, dict[str, Any]]:
    """Parse the command line into (configuration file or None, options). Unknown options raise `InputError`.

    The options are the settings of `kind`, with the order, groups, and comments of the default file, which must have
    all of them. aliases: option of an earlier version -> its present name, and a function that translates its text.
    """
    annotations = typing.get_type_hints(kind, include_extras=True)
    above, below = split_examples(description)
    parser = argparse.ArgumentParser(
        prog=prog,
        usage=f"{prog} [--config FILE|NAME] [--SETTING VALUE ...]",
        description=above,
        epilog=below,
        allow_abbrev=False,
        exit_on_error=False,
        argument_default=argparse.SUPPRESS,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=34, width=118),
    )
    text = f"yaml file with settings that differ from the defaults, or a shipped recipe: {', '.join(config_names)}"
    parser.add_argument("--config", metavar="FILE|NAME", help=text)
    _add_settings(parser, default_path, read_values(default_path, kind), annotations)
    for old, (name, translate) in (aliases or {}).items():
        action = "append" if annotations[name] is dict else "store"
        parser.add_argument(f"--{old}", dest=name, action=action, type=translate, help=argparse.SUPPRESS)
    try:
        namespace, unknown = parser.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise InputError(f"{error}; --help lists the options") from error
    if unknown and not unknown[0].startswith("-"):
        raise InputError(f"{unknown[0]!r} follows no option; a configuration is given with --config {unknown[0]}")
    if unknown:
        name = unknown[0].split("=")[0].lstrip("-").replace("-", "_")
        known = {"config", "help", *annotations}
        raise InputError(f"unknown option {unknown[0]}{nearest(name, known)}; --help lists the options")
    values = vars(namespace)
    config = values.pop("config", None)
    return config, {name: convert(f"--{name}", value, annotations[name]) for name, value in values.items()}


def _add_settings(
    parser: argparse.ArgumentParser, default_path: str | Path, defaults: dict[str, Any], annotations: dict[str, Any]
) -> None:
    """Add an option for every line of the default file; raises `InputError` for a setting without a line."""
    group, missing = parser.add_argument_group("Settings"), set(annotations)
    for line in Path(default_path).read_text(encoding="utf-8").splitlines():
        if match := GROUP_LINE.match(line):
            group = parser.add_argument_group(match[1])
        elif match := OPTION_LINE.match(line):
            name, text = match.groups()
            annotation = annotations[name]
            text = f"{text} [{describe_default(defaults[name])}]".replace("%", "%%")
            words = describe_type(annotation).replace(" or none", "")
            form = {"nargs": "+", "action": "extend"} if annotation is dict else {}
            if bool in (annotation, *typing.get_args(annotation)):
                form = {"nargs": "?", "const": True}
            elif typing.get_origin(annotation) is list:
                words, form = words.removesuffix("s"), {"nargs": "+"}
            group.add_argument(f"--{name}", metavar=words if "|" in words else words.upper(), help=text, **form)
            missing.remove(name)
    if missing:
        raise InputError(f"{default_path} lacks a commented line for {', '.join(sorted(missing))}; add it")


def add_pairs_option(parser: argparse.ArgumentParser, name: str, help: str, shorthands: list[str]) -> None:
    """Add the option `--name NAME=VALUE ...` (read by `convert(name, value, dict)`), and shorthands for its pairs."""
    parser.add_argument(f"--{name}", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help=help)
    for short in shorthands:
        text = f"as --{name} {short}=VALUE"
        parser.add_argument(f"--{short}", dest=name, action="append", type=f"{short}={{}}".format, help=text)


def write_settings(path: str | Path, settings: Any, comments: Iterable[str] = ()) -> None:
    """Write a settings dataclass as yaml, in the order of its fields, below lines of `comments` (atomic)."""
    head = "".join(f"# {' '.join(comment.split())}\n" for comment in comments)
    with atomic_path(path) as temporary:
        temporary.write_text(head + yaml.safe_dump(asdict(settings), sort_keys=False), encoding="utf-8")
