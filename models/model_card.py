"""The model card of a network for the Hugging Face Hub: what it is, what it was trained on, and how it is used."""

from torch import nn

CARD = """---
license: mit
library_name: istd
pipeline_tag: image-segmentation
tags:
- infrared
- small-target-detection
- {name}
---

# {name}

A network of {parameters:,} parameters that finds small targets in infrared {input}, for the package `istd`.

| | |
|---|---|
| input | clip [B, {frames}, {channels}, H, W]; {colour} |
| output | logits [B, 1, H, W] of frame {target} of the clip, counted from 0 |
| size | height and width are multiples of {multiple}; `Predictor` pads frames |
| options | {options} |
| preprocessing | preset `{preset}` |
| trained on | {dataset} |

In an environment with `istd`, with `FILE` as the file of weights or the folder that holds it:

```python
from istd.models import load_model
from istd.test_script.predictor import Predictor

network = load_model("FILE")
predictor = Predictor.from_checkpoint("FILE")
result = predictor(frames)  # numpy [N, H, W], uint8, uint16, or float in 0..1
```

```bash
python -m test_script.predict --model_path FILE --input video.mp4
```

The licence above is that of the code. Whether it extends to the weights depends on the licences of the training data.
"""


def model_card(network: nn.Module) -> str:
    """The model card of a network of `models`, in Markdown, made from its attributes and `settings`."""
    settings, unknown = network.settings, "not recorded"
    frames = network.num_frames
    return CARD.format(
        name=network.name,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        input="images" if frames == 1 else f"videos, from {frames} frames at a time",
        frames=frames,
        channels=network.in_channels,
        colour="grey" if network.in_channels == 1 else "grey in three equal channels",
        target=network.target_index,
        multiple=network.size_multiple,
        options=", ".join(f"{key}={value}" for key, value in network.options.items()) or "none",
        preset=settings.get("preset") or f"{unknown}: the preset of the network's paper",
        dataset=settings.get("dataset") or unknown,
    )
