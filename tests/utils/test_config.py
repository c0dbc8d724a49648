"""Settings: precedence, types, messages, and one line of help for every one."""

from dataclasses import dataclass
from typing import Literal

import pytest
import yaml

from istd.train_script.settings import (
    CONFIGS,
    Settings,
    changed_settings,
    merge_settings,
    parse_command_line,
    read_config,
)
from istd.utils.config import convert, describe_default, parse_arguments, read_values, write_settings
from istd.utils.errors import InputError


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
    return parse_arguments(defaults, Small, argv, "prog", "It does things.", ["quick"])


def test_values_have_their_types_even_where_yaml_reads_text(defaults):
    values = read_values(defaults, Small)
    assert values == {"kind": "red", "size": 3, "rate": 1e-4, "flag": False, "steps": [], "name": None}
    assert isinstance(values["rate"], float)


def test_command_line_gives_only_what_was_given(defaults):
    assert parse(defaults, []) == (None, {})
    config, options = parse(
        defaults,
        ["--config", "quick", "--size", "5", "--flag", "--steps", "1", "2", "--name", "none", "--rate", "2e-3"],
    )
    assert config == "quick"
    assert options == {"size": 5, "flag": True, "steps": [1, 2], "name": None, "rate": 2e-3}
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
        ("size: 3\nsize: 4", "'size' appears twice"),
        ("a: &a [1, 1]\nb: [*a, *a]", "an alias"),
        ("a: " + 5000 * "[", "nested too deeply"),
        ("size: .nan", "size in"),
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
        parse_arguments(defaults, Small, [], "prog", "It does things.", [])


def test_help_is_grouped_and_shows_defaults(defaults, capsys):
    with pytest.raises(SystemExit) as stop:
        parse(defaults, ["--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0
    assert (
        text.index("Colours:") < text.index("--kind red|green") < text.index("Numbers:") < text.index("--size INTEGER")
    )
    assert "per step; 50% of it later [0.0001]" in text
    assert "where [none]" in text and "of it [none]" in text and "or not [false]" in text
    assert [describe_default(value) for value in ([2, 1], {"a": 1}, 0, True)] == ["2 1", "a=1", "0", "true"]


def test_convert_bounds():
    assert convert("x", "7", int | None) == 7
    assert convert("x", "None", int | None) is None
    with pytest.raises(InputError):
        convert("x", "None", int)


@pytest.mark.parametrize("value", ["none", ["none"], ["None"], None, "null"])
def test_none_is_the_empty_list_or_mapping(value):
    """As --help shows it, and as argparse and yaml give it."""
    assert convert("x", value, list[int]) == convert("x", value, list[str]) == []
    assert convert("x", value, dict) == {}
    _, options = parse_command_line(["--freeze", "none", "--milestones", "none", "--lr_scales", "none"])
    assert options == {"freeze": [], "milestones": [], "lr_scales": {}}


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
    assert parse_command_line(["--resume", "auto"]) == ("demo", {"resume": "auto"})
    assert parse_command_line(["--resume", "some/run"])[0] is None
    assert parse_command_line(["--dataset", "NUDT-SIRST"])[0] is None
    settings = merge_settings(*parse_command_line([]))
    assert (settings.model, settings.dataset) == ("sgmp_unet_small", "demo")


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
        read_config("datransnet_fst")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--epochs 0", "--epochs is 0, expected at least 1"),
        ("--ema 1", "--ema is 1.0, expected 0 .off. or a decay below 1"),
        ("--clip_norm 0", "--clip_norm is 0.0, expected a number above 0"),
        ("--lr nan", "--lr is 'nan', expected number"),
        ("--lr inf", "--lr is 'inf', expected number"),
        ("--dataset_weights inf 1", "--dataset_weights is 'inf', expected number"),
        ("--train_size 3200000", "--train_size is 3200000, expected a number of pixels from 1 to 8192"),
        ("--val_size 1", "--val_size is 1, expected a number of pixels from 32 to 8192"),
        ("--epoch_samples 1000000000000", "expected a number from 1 to 100000000"),
        ("--limit_val 0", "--limit_val is 0, expected at least 1"),
        ("--dataset_weights 1 0", "--dataset_weights is 0.0, expected a number above 0"),
        ("--experiment_name a/b", "--experiment_name is a/b, expected the name of one folder"),
    ],
)
def test_numbers_out_of_range_are_refused(option, message, tmp_path):
    with pytest.raises(InputError, match=message):
        parse_command_line(option.split())


def test_ranges_hold_in_files_too(tmp_path):
    (tmp_path / "mine.yaml").write_text("epochs: 0\n")
    with pytest.raises(InputError, match=r"epochs in .*mine.yaml is 0, expected at least 1"):
        merge_settings(str(tmp_path / "mine.yaml"), {})


@pytest.mark.parametrize(
    ("config", "options", "dataset", "size"),
    [
        ("sgmp_unet", {}, "NUDT-MIRSDT", 320),
        ("sgmp_unet", {"dataset": "IRDST"}, "IRDST", 320),
        ("sgmp_unet_irdst", {}, "IRDST", 320),
        ("sgmp_unet_nudt_mirsdt", {}, "NUDT-MIRSDT", 320),
        ("sgmp_unet_tsirmt.yaml", {}, "TSIRMT", 320),
        ("datransnet", {"dataset": "IRSTD-1K"}, "IRSTD-1K", 512),
        ("datransnet", {"dataset": "/data/irstd-1k"}, "/data/irstd-1k", 512),
        ("datransnet_irstd_1k", {}, "IRSTD-1K", 512),
        ("datransnet_nudt_sirst", {}, "NUDT-SIRST", 256),
        ("datransnet", {"dataset": "mine"}, "mine", 256),
        ("datransnet", {"dataset": "NUDT-SIRST+data/IRSTD-1K"}, "NUDT-SIRST+data/IRSTD-1K", 256),  # they differ
        ("datransnet", {"dataset": "a/IRSTD-1K+b/irstd-1k"}, "a/IRSTD-1K+b/irstd-1k", 512),
        ("datransnet_irstd_1k", {"train_size": 96}, "IRSTD-1K", 96),
        (None, {"dataset": "IRSTD-1K"}, "IRSTD-1K", 128),  # the preset is not the published one
    ],
)
def test_published_recipes_take_their_sizes_from_the_catalog(config, options, dataset, size):
    settings = merge_settings(config, options)
    assert (settings.dataset, settings.train_size) == (dataset, size)
    if config and config.startswith("datransnet") and "train_size" not in options:
        assert settings.train_size == settings.model_options["image_size"] == size


def test_settings_of_earlier_versions_go_on_loading():
    saved = {"start": "quiet", "target_share": 0.75, "lr_min": 1e-7, "warmup_epochs": 2.0, "epochs": 9, "lr": 0.5}
    settings = merge_settings(None, {}, saved)
    assert (settings.init, settings.epochs, settings.lr) == ("low_prior", 9, 0.5)
    assert changed_settings(saved, settings) == ["warmup_epochs 2.0 -> 0.0"]
    with pytest.raises(InputError, match="unknown setting 'sise' in the checkpoint"):
        merge_settings(None, {}, {"sise": 3})


def test_written_settings_read_back_equal(tmp_path):
    settings = merge_settings("datransnet_fast", {"milestones": [3, 5], "limit_val": 4})
    write_settings(tmp_path / "settings.yaml", settings)
    assert Settings(**read_values(tmp_path / "settings.yaml", Settings)) == settings
    assert next(iter(yaml.safe_load((tmp_path / "settings.yaml").read_text()))) == "dataset"
