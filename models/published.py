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

SGMP_UNET = (
    (r"^encoder\.model\.0\.spatial_layer\.", "encoder.spatial_stem."),
    (r"^encoder\.model\.0\.temporal_layer\.0\.", "encoder.patch_embed."),
    (r"^encoder\.model\.([1-4])\.", _down_one("encoder.stages.", ".")),
    # spatial branch
    (r"\.spatial_layer\.", ".spatial."),
    (r"\.bn([12])\.", r".norm\1."),
    (r"\.downsample\.([01])\.", r".shortcut.\1."),
    (r"\.ca\.fc1\.", ".channel_attention.reduce."),
    (r"\.ca\.fc2\.", ".channel_attention.expand."),
    (r"\.sa\.conv1\.", ".spatial_attention.conv."),
    # temporal branch: later stages hold the patch merging and then the blocks, the first one only the blocks
    (r"\.temporal_layer\.0\.(reduction|norm)\.", r".merge.\1."),
    (r"\.temporal_layer\.1\.(\d)\.", r".temporal.\1."),
    (r"\.temporal_layer\.", ".temporal."),
    # fusion
    (r"\.fusionst\.proj_q\.", ".fusion.query."),
    (r"\.fusionst\.downsample\.", ".fusion.merge."),
    (r"\.fusionst\.proj_k\.", ".fusion.key."),
    (r"\.fusionst\.k_layer_norm\.", ".fusion.key_norm."),
    (r"\.fusionst\.multihead_attn\.", ".fusion.attention."),
    (r"\.fusionst\.layer_norm\.", ".fusion.norm."),
    # skips
    (r"^skip_layers\.(\d)\.glu\.fc1\.", r"skips.\1.expand."),
    (r"^skip_layers\.(\d)\.glu\.dwconv\.dwconv\.", r"skips.\1.depthwise."),
    (r"^skip_layers\.(\d)\.glu\.fc2\.", r"skips.\1.project."),
    (r"^skip_layers\.(\d)\.skip\.", r"skips.\1.shortcut."),
    # decoder: a stage's patch expansion is published at the end of the stage before
    (r"^decoder\.features\.0\.projection\.", "decoder.expands.0.projection."),
    (r"^decoder\.features\.1\.2\.projection\.", "decoder.expands.1.projection."),
    (r"^decoder\.features\.2\.6\.projection\.", "decoder.expands.2.projection."),
    (r"^decoder\.features\.([123])\.", _down_one("decoder.blocks.", ".")),
    # head
    (r"^former\.features\.([01])\.0\.projection\.", r"head.expands.\1.projection."),
    (r"^former\.features\.([01])\.([12])\.", lambda match: f"head.blocks.{match[1]}.{int(match[2]) - 1}."),
    (r"^former\.fc_s\.(\d)\.1\.", r"head.side.\1."),
    (r"^former\.fc\.", "head.main."),
    (r"\.projection\.0\.", ".project."),
    (r"\.projection\.1\.", ".norm."),
)


def rename(weights: dict[str, Tensor], table, unused: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """The weights under our names; those whose published name starts with a word of `unused` are left out."""
    renamed = {}
    for name, weight in weights.items():
        if not name.startswith(unused or "\0"):
            for pattern, replacement in table:
                name = re.sub(pattern, replacement, name)
            renamed[name] = weight
    return renamed
