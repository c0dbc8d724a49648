"""Settings: precedence, types, messages, and one line of help for every one."""

from dataclasses import dataclass
from typing import Literal

import pytest
import yaml

from train_script.settings import CONFIGS, Settings, find_config, merge_settings, parse_command_line
from utils.config import convert, parse_arguments, read_options, read_values, write_settings
from utils.errors import InputError


@dataclass(frozen=True)
class Small:
    size: int
    rate: float
    kind: Literal["red", "green"]
    flag: bool
    steps: list[int]
    name: str | None


DEFAULTS = """# == Colours ==
kind: red  # the colour
# == Numbers ==
size: 3  # in px
rate: 1e-4  # per step; 50% of it later
flag: false  # or not
steps: []  # where
name: null  # of it
"""


@pytest.fixture
def defaults(tmp_path):
    path = tmp_path / "default.yaml"
    path.write_text(DEFAULTS)
    return path


def parse(defaults, argv):
    return parse_arguments(read_options(defaults, Small), argv, "prog", "It does things.", ["quick"])


def test_values_have_their_types_even_where_yaml_reads_text(defaults):
    values = read_values(defaults, Small)
    assert values == {"kind": "red", "size": 3, "rate": 1e-4, "flag": False, "steps": [], "name": None}
    assert isinstance(values["rate"], float)


def test_command_line_gives_only_what_was_given(defaults):
    assert parse(defaults, []) == (None, {})
    config, given = parse(
        defaults,
        ["--config", "quick", "--size", "5", "--flag", "--steps", "1", "2", "--name", "none", "--rate", "2e-3"],
    )
    assert config == "quick"
    assert given == {"size": 5, "flag": True, "steps": [1, 2], "name": None, "rate": 2e-3}
    assert parse(defaults, ["--flag", "false"])[1] == {"flag": False}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--sizes", "5"], "unknown option --sizes; did you mean size?"),
        (["--num-steps", "5"], "did you mean steps?"),
        (["--size", "big"], "--size is 'big', expected integer"),
        (["--kind", "gren"], "--kind is 'gren', expected one of red, green; did you mean green?"),
        (["--flag", "perhaps"], "expected true|false"),
        (["--size"], "expected one argument"),
        (["stray"], "'stray' follows no option"),
    ],
)
def test_mistakes_on_the_command_line_are_named(defaults, argv, message):
    with pytest.raises(InputError) as error:
        parse(defaults, argv)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sise: 3", "unknown setting 'sise'"),
        ("sise: 3", "did you mean size?"),
        ("size: 3.5", "size in"),
        ("size: true", "expected integer"),
        ("size: null", "expected integer"),
        ("- 1", "holds a list, expected lines of the form"),
        ("a: [", "is no valid yaml"),
    ],
)
def test_mistakes_in_a_file_are_named_with_the_file(tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        read_values(path, Small)
    assert message in str(error.value) and "mine.yaml" in str(error.value)


def test_missing_file_is_no_empty_configuration(tmp_path):
    with pytest.raises(InputError, match="cannot read the configuration"):
        read_values(tmp_path / "none.yaml", Small)


def test_default_file_must_hold_every_setting(defaults):
    defaults.write_text(DEFAULTS.replace("size: 3  # in px\n", ""))
    with pytest.raises(InputError, match="lacks a commented line for size"):
        read_options(defaults, Small)


def test_help_is_grouped_and_shows_defaults(defaults, capsys):
    with pytest.raises(SystemExit) as stop:
        parse(defaults, ["--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0
    assert (
        text.index("Colours:") < text.index("--kind red|green") < text.index("Numbers:") < text.index("--size INTEGER")
    )
    assert "per step; 50% of it later [0.0001]" in text


def test_convert_bounds():
    assert convert("x", "7", int | None) == 7
    assert convert("x", "None", int | None) is None
    with pytest.raises(InputError):
        convert("x", "None", int)


def test_precedence_default_then_file_then_command_line(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("epochs: 7\nbatch_size: 3\n")
    settings = merge_settings(str(path), {"batch_size": 5})
    assert (settings.epochs, settings.batch_size) == (7, 5)
    assert settings.lr == read_values(CONFIGS / "default.yaml", Settings)["lr"]
    assert merge_settings(None, {}, {"epochs": 9, "lr": 0.5}).epochs == 9


def test_without_arguments_the_demo_is_trained():
    assert parse_command_line([]) == ("demo", {})
    assert parse_command_line(["--epochs", "2"]) == ("demo", {"epochs": 2})
    assert parse_command_line(["--dataset", "NUDT-SIRST"])[0] is None
    settings = merge_settings(*parse_command_line([]))
    assert (settings.model, settings.dataset) == ("sgmp_unet", "demo")


def test_every_recipe_is_valid_and_holds_differences_only():
    defaults = read_values(CONFIGS / "default.yaml", Settings)
    recipes = [path for path in CONFIGS.glob("*.yaml") if path.stem != "default"]
    assert len(recipes) >= 3
    for path in recipes:
        merge_settings(path.stem, {})
        for name, value in read_values(path, Settings).items():
            assert value != defaults[name], f"{path.name} repeats the default of {name}"


def test_unknown_configuration_suggests_the_nearest():
    with pytest.raises(InputError, match="did you mean datransnet_fast"):
        find_config("datransnet_fst")


@pytest.mark.parametrize(
    "given", [{"epochs": 0}, {"ema": 1.0}, {"clip_norm": 0.0}, {"lr": float("nan")}, {"limit_val": 0}]
)
def test_numbers_out_of_range_are_refused(given):
    with pytest.raises(InputError, match=next(iter(given))):
        merge_settings(None, given)


def test_written_settings_read_back_equal(tmp_path):
    settings = merge_settings("datransnet_fast", {"milestones": [3, 5], "limit_val": 4})
    write_settings(tmp_path / "settings.yaml", settings)
    assert Settings(**read_values(tmp_path / "settings.yaml", Settings)) == settings
    assert next(iter(yaml.safe_load((tmp_path / "settings.yaml").read_text()))) == "dataset"
