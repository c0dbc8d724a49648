"""Names of weights in published checkpoints, and what they are called here: one table a network.

Each row is a regular expression and its replacement; the rows are applied to a name one after the other.
"""

import re

from torch import Tensor


def _down_one(before: str, after: str):
    """Replacement that counts from 0 what the published name counts from 1."""
    return lambda match: f"{before}{int(match[1]) - 1}{after}"


DATRANSNET = (
    (r"^inc\.0\.", "encoders.0."),
    (r"^encoder([1-4])\.0\.", r"encoders.\1."),
    (r"^contras([1-4])\.", _down_one("transformers.", ".")),
    (r"^decoder([1-4])\.", _down_one("decoders.", ".")),
    # residual blocks
    (r"\.bn([12])\.", r".norm\1."),
    (r"\.shortcut\.0\.", ".shortcut_conv."),
    (r"\.shortcut\.1\.", ".shortcut_norm."),
    # gradient transformers
    (r"\.(query|key|value)_convs\.", r".\1."),
    (r"^(transformers\.\d)\.out_conv\.0\.", r"\1.project."),
    (r"^(transformers\.\d)\.out_conv\.1\.", r"\1.norm."),
    # global features
    (r"^GFEM\.sp\.theta\.", "global_features.non_local.query."),
    (r"^GFEM\.sp\.phi\.0\.", "global_features.non_local.key."),
    (r"^GFEM\.sp\.g\.0\.", "global_features.non_local.value."),
    (r"^GFEM\.sp\.W\.0\.", "global_features.non_local.project."),
    (r"^GFEM\.sp\.W\.1\.", "global_features.non_local.norm."),
    (r"^GFEM\.ca\.fc1\.", "global_features.gate."),
    (r"^GFEM\.tra_conv_1\.", "global_features.mix_non_local."),
    (r"^GFEM\.tra_conv_2\.", "global_features.mix_pooled."),
    (r"^GFEM\.out_conv\.", "global_features.out."),
    # decoder and output
    (r"\.nConvs\.0\.conv\.", ".conv1."),
    (r"\.nConvs\.0\.norm\.", ".norm1."),
    (r"\.nConvs\.1\.conv\.", ".conv2."),
    (r"\.nConvs\.1\.norm\.", ".norm2."),
    (r"\.sattn\.0\.", ".gate."),
    (r"^outc\.0\.dwconv_hw\.", "head.square."),
    (r"^outc\.0\.dwconv_w\.", "head.wide."),
    (r"^outc\.0\.dwconv_h\.", "head.high."),
    (r"^outc\.1\.", "head.logit."),
)
# The published network has a fifth encoder and decoder that its forward pass never calls.
DATRANSNET_UNUSED = ("encoder5.", "decoder5.")


def rename(weights: dict[str, Tensor], table, unused: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """The weights under our names; those whose published name starts with a word of `unused` are left out."""
    renamed = {}
    for name, weight in weights.items():
        if not name.startswith(unused or "\0"):
            for pattern, replacement in table:
                name = re.sub(pattern, replacement, name)
            renamed[name] = weight
    return renamed
