"""What `--flip --msc` costs for SGMP-UNet: python -m tests.benchmarks.inference [--size 320 320] [--device cuda]

The plain loop is one forward pass of the plain network (tests/reference/plain_sgmp_unet.py) for each scale and flip, as
the released test code runs; against it the predictor, in float32 and with --amp (bfloat16). Weights are random, with
the output's bias set so that half of the pixels lie above the threshold: the hardest case for equal masks. Each is
timed `--runs` times, in turns, and the least counts; a frame of a quarter of the size warms up.
"""

import argparse
import time

import numpy as np
import torch
import torch.nn.functional as F

from istd.models import build_model
from istd.test_script.predictor import PUBLISHED_SCALES, Predictor
from istd.test_script.predictor.predictor import resize_clips
from istd.utils.metrics.tables import text_table
from tests.reference.plain_sgmp_unet import PlainSGMPUNet


def plain_loop(network, clip, size, scales):
    """Probability map of one clip [T, C, H, W] at `size`, a pass at a time."""
    views = []
    for flip in (False, True):
        probabilities = []
        for scale in scales:
            view = clip.flip(-1) if flip else clip
            scaled = resize_clips(view[None], scale, 32)
            logits = network(scaled.transpose(1, 2))[0]
            at_mask = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)[0, 0]
            probabilities.append(at_mask.sigmoid())
        mean = torch.stack(probabilities).mean(0)
        views.append(mean.flip(-1) if flip else mean)
    return torch.stack(views).mean(0).cpu().numpy()


def seconds(function, device):
    """Time of a call, on a CPU its processor time (which other processes do not lengthen), and its result."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    start = clock()
    result = function()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - start, result


@torch.inference_mode()
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=(320, 320), help="of the network's input at scale 1")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--scales", type=float, nargs="+", default=PUBLISHED_SCALES)
    args = parser.parse_args()
    device, size = torch.device(args.device), tuple(args.size)
    torch.manual_seed(0)
    clip = torch.randn(6, 3, *size, device=device)
    plain = PlainSGMPUNet().eval().to(device)
    plain.former.fc.bias -= plain(clip.transpose(0, 1)[None])[0].median()
    fast = build_model("sgmp_unet").eval()
    fast.load_state_dict(fast.from_published({name: value.cpu() for name, value in plain.state_dict().items()}))

    options = {"flip": True, "scales": tuple(args.scales)}
    predictors = {
        "predictor": Predictor(fast, None, device, **options),
        "predictor --amp": Predictor(fast, None, device, amp="bf16", **options),
    }
    runs = {"plain loop": lambda clip: plain_loop(plain, clip, size, args.scales)}
    for name, predictor in predictors.items():
        runs[name] = lambda clip, predictor=predictor: predictor.score_maps([clip], [size])[0].probability
    times, maps = {name: [] for name in runs}, {}
    for run in runs.values():
        run(clip[..., : size[0] // 64 * 32, : size[1] // 64 * 32])
    for _ in range(args.runs):
        for name, run in runs.items():
            took, maps[name] = seconds(lambda run=run: run(clip), device)
            times[name].append(took)
    rows = [["", "s a frame", "times", "pixels that differ", "largest difference"]]
    reference, base = maps["plain loop"], min(times["plain loop"])
    for name, values in maps.items():
        differ = np.count_nonzero((values > 0.5) != (reference > 0.5))
        largest = np.abs(values - reference).max()
        least = min(times[name])
        rows.append([name, f"{least:.2f}", f"{base / least:.2f}", f"{differ} of {values.size}", f"{largest:.1e}"])
    print(
        f"SGMP-UNet, {size[0]} x {size[1]}, --flip --scales {args.scales}, {device}, {torch.get_num_threads()} threads"
    )
    print(text_table(rows))


if __name__ == "__main__":
    main()
