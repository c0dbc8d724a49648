"""Settings of earlier versions are read under today's names, wherever they come from."""

import pytest
import yaml

from istd.datasets.presets import PRESETS, find_preset
from istd.models import build_model, load_model
from istd.train_script.run_folder import read_last
from istd.train_script.settings import Settings, merge_settings, parse_command_line
from istd.train_script.starting_point import start_from_weights
from istd.utils.checkpoint import read_checkpoint, save_checkpoint
from istd.utils.errors import InputError
from tests.reference.datasets_folders import REPOSITORY


def merged(*argv, saved=None) -> Settings:
    return merge_settings(*parse_command_line(list(argv)), saved)


def network(settings: Settings) -> tuple:
    return settings.model, settings.model_options, settings.init


def test_the_command_line():
    settings = merged("--model", "sgmp_unet", "--num_frames", "4", "--start", "quiet")
    assert network(settings) == ("sgmp_unet", {"num_frames": 4}, "low_prior")
    settings = merged("--model", "datransnet", "--image_size=512", "--model_options", "width=8", "--start", "published")
    assert network(settings) == ("datransnet", {"image_size": 512, "width": 8}, "published")
    with pytest.raises(InputError, match="datransnet has no option 'num_frames'; its options: image_size, width"):
        merged("--model", "datransnet", "--num_frames", "4")


def test_a_configuration_and_the_settings_saved_with_a_run(tmp_path):
    old = {"model": "datransnet", "num_frames": 6, "image_size": 512, "start": "quiet"}  # both were always written
    (tmp_path / "old.yaml").write_text(yaml.safe_dump(old))
    expected = ("datransnet", {"image_size": 512}, "low_prior")
    assert network(merged("--config", str(tmp_path / "old.yaml"))) == expected
    assert network(merged("--dataset", "demo", saved=old)) == expected


def test_compilation_that_was_left_to_the_device(tmp_path):
    (tmp_path / "old.yaml").write_text("compile: none\n")
    assert merged("--dataset", "demo", "--config", str(tmp_path / "old.yaml")).compile is False
    assert merged("--dataset", "demo", saved={"compile": None}).compile is False
    assert merged("--dataset", "demo", saved={"compile": True}).compile is True
    (tmp_path / "old.yaml").write_text("compile: maybe\n")
    with pytest.raises(InputError, match="is 'maybe', expected true"):
        merged("--config", str(tmp_path / "old.yaml"))


def test_runs_whose_checkpoints_do_not_say_so_synchronised_their_batch_norms(tmp_path):
    for settings, synchronised in (({"epochs": 3}, True), ({"epochs": 3, "sync_bn": False}, False)):
        save_checkpoint(tmp_path / "last.pth", build_model("datransnet", width=4), settings, {"position": {}})
        assert merged("--dataset", "demo", saved=read_last(tmp_path / "last.pth").settings).sync_bn is synchronised
    assert merged("--dataset", "demo").sync_bn is False


def test_model_options_add_up_as_long_as_the_model_stays():
    assert merged("--config", "datransnet_irstd_1k").model_options == {"image_size": 512}
    more = merged("--config", "datransnet_irstd_1k", "--model_options", "width=8")
    assert more.model_options == {"image_size": 512, "width": 8}
    assert merged("--config", "datransnet_irstd_1k", "--model", "sgmp_unet_small").model_options == {}


# of the first release's datransnet_nudt-sirst.pth, without those that have today's names and defaults
SETTINGS_OF_FIRST_RELEASE = {
    "dataset": "NUDT-SIRST", "preset": "fast", "train_size": 128, "val_size": 256, "target_share": 0.75,
    "model": "datransnet", "num_frames": 6, "image_size": 256, "epochs": 120, "batch_size": 16, "lr": 0.002,
    "warmup_epochs": 0.0, "step_factor": 0.1, "restart_epochs": 10, "lr_min": 1e-07, "channels_last": False,
    "experiment_name": "datransnet_fast", "save_steps": 100,
}  # fmt: skip


def test_the_settings_of_the_first_release_continue_under_todays_names():
    settings = merged("--dataset", "demo", saved=SETTINGS_OF_FIRST_RELEASE)
    assert network(settings) == ("datransnet", {"image_size": 256}, "published")
    assert (settings.preset, settings.train_size, settings.lr) == ("grey", 128, 0.002)


def test_the_checkpoint_in_weights_continues():
    checkpoint = read_checkpoint(REPOSITORY / "weights" / "datransnet_nudt-sirst.pth")
    settings = merged("--dataset", "demo", saved=checkpoint.settings)
    assert network(settings) == ("datransnet", {}, "published")
    assert settings.preset == "grey"
    assert load_model(checkpoint).options == {"image_size": 256, "width": 16}


def test_presets_by_their_former_names(tmp_path):
    """On the command line, in a configuration, with a run, and in weights that a run starts from."""
    assert merged("--dataset", "demo", "--preset", "contrast").preset == "local_contrast"
    (tmp_path / "old.yaml").write_text("preset: fast\ndataset: demo\n")
    assert merged("--config", str(tmp_path / "old.yaml")).preset == "grey"
    assert merged("--dataset", "demo", saved={"preset": "contrast"}).preset == "local_contrast"
    assert find_preset("contrast") is PRESETS["local_contrast"]
    with pytest.raises(InputError, match="preset is 'fst', expected one of sgmp_unet, datransnet, grey, local_contra"):
        merged("--dataset", "demo", "--preset", "fst")

    network = build_model("datransnet", width=4)
    save_checkpoint(tmp_path / "old.pth", network, {"preset": "fast"})
    assert b"fast" in (tmp_path / "old.pth").read_bytes(), "stands for a file of an earlier version"
    assert read_checkpoint(tmp_path / "old.pth").settings == {"preset": "grey"}
    for option in ([], ["--preset", "fast"], ["--preset", "grey"]):
        words = ["--dataset", "demo", "--init_weights", str(tmp_path / "old.pth"), *option]
        settings, notes = start_from_weights(*parse_command_line(words))
        assert settings.preset == "grey" and not notes
