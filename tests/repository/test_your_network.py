"""docs/your_network.md: its commands train, test and run its network; its Python loads weights of other programs."""

import importlib
import re
import shlex

import torch
from torch import nn

from istd.models.external import Interface
from tests.reference.datasets_folders import REPOSITORY, write_lists, write_pairs

PAGE = (REPOSITORY / "docs" / "your_network.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
THEIR_NET = """
from torch import nn

class TheirNet(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.side, self.main = nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, width + 1, padding=width // 2)

    def forward(self, x):
        return [self.side(x), self.main(x)]
"""


def test_the_commands_and_examples_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    my_net, in_python = (content for kind, content in BLOCKS if kind == "python")
    (tmp_path / "my_net.py").write_text(my_net)
    data = tmp_path / "data" / "MY-IR"
    names = [f"image{number}" for number in range(12)]
    write_pairs(data / "images", data / "masks", names)
    write_lists(data, train=names[:10], test=names[10:])
    (commands,) = (content for kind, content in BLOCKS if kind == "bash")
    for line in commands.splitlines():
        _, _, module, *arguments = shlex.split(line)
        assert not importlib.import_module(f"istd.{module}").main(arguments)
    printed = capsys.readouterr().out
    assert "train my_net.py:MyNet" in printed and "2 images, 2 targets" in printed and "12 frames" in printed

    (tmp_path / "their_net.py").write_text(THEIR_NET)
    kernel = nn.Conv2d(1, 1, 33, padding=16)
    weights = {"side.weight": torch.ones(1, 1, 1, 1), "side.bias": torch.ones(1)}
    torch.save(weights | {f"main.{name}": weight for name, weight in kernel.state_dict().items()}, "their_weights.pth")
    space = {}
    exec(in_python, space)
    clip = torch.rand(1, 1, 1, 32, 32)
    torch.testing.assert_close(space["network"](clip), kernel(clip[:, 0]))


def test_the_table_lists_every_declaration():
    declared = re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)
    assert declared == list(Interface.__dataclass_fields__)
