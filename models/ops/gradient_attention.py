"""Attention to the surround of each pixel.

The published form concatenates, for each shift d, the eight neighbours at distance d minus the centre into 8C channels
(the surround), and its keys and values are 1x1 convolutions Wk and Wv of them. Its scores are cosines over all pixels:
of the keys it takes only their products with the queries and their norms. Its output, softmax(scores) times the values,
is linear in the values: softmax(scores) Wv is one small matrix per sample, and its product with the surround is the
output, so that no values are computed. There are two ways to multiply the surround by a matrix:

* GPUs, and exported networks, build the surround: at a GPU's bandwidth that is faster than cuDNN's dilated and grouped
  convolutions.
* CPUs do not. A 1x1 convolution of "neighbour minus centre" is one 3x3 convolution with dilation d, whose outer taps
  are the eight blocks of its weight and whose centre tap is minus their sum (`surround_kernel`). Where there are many
  keys for each channel, they are not computed either (`KeyProducts`).
"""

from collections.abc import Callable, Iterable, Iterator
from functools import reduce

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from istd.models import ops
from istd.models.ops.key_products import KeyProducts, crop_border

GRAM_KEYS = 2  # keys for each channel: with more of them, `KeyProducts` is faster than to compute the keys
NORM_EPS = 1e-12  # of the L2 normalisation of queries and keys


def attend_to_surround(
    x: Tensor,
    query: Tensor,
    key: nn.ModuleList,
    value: nn.ModuleList,
    project: nn.Conv2d,
    shifts: tuple[int, ...],
    normalise: Callable[[Tensor], Tensor],
) -> Tensor:
    """`project` of the values of the surround, weighted by the similarity of its keys to the queries: [B, C, H, W].

    x [B, C, H, W]; query: the weight [width, C, 1, 1] of the queries; key and value: the 1x1 convolutions of the
    surround of each shift. `normalise` turns cosine similarities over all pixels, of every query channel to the keys of
    its head, into attention weights, both [B, heads, hidden, shifts, keys of a shift] with as many heads as shifts, in
    float32 or better.
    """
    keys, values = (torch.stack([conv.weight.flatten(1) for conv in convs]) for convs in (key, value))  # [S, K, 8C]
    device = x.device.type
    casts = torch.is_autocast_enabled(device) and x.dtype != torch.float64  # which autocast leaves as it is
    dtype = torch.get_autocast_dtype(device) if casts else x.dtype
    convolve = ops.on_cpu(x) and not ops.is_exporting()
    with torch.autocast(device, enabled=False):
        image = F.pad(x, (max(shifts),) * 4, mode="reflect").contiguous(memory_format=torch.channels_last)
        padded = image.to(dtype)
        surround = None if convolve else _surrounds(padded, shifts)
        if convolve and ops.in_pieces(x) and keys.shape[1] > GRAM_KEYS * x.shape[1]:
            sums = _sums_from_grams(x, image, query, keys, shifts)
        else:
            queries, key_weights = F.conv2d(x.to(dtype), query.to(dtype)), keys.to(dtype)
            if convolve:
                key_maps = map(_pixels, _convolve(padded, surround_kernel(key_weights), shifts))
            else:
                key_maps = (surround(index) @ weight.T for index, weight in enumerate(key_weights))
            sums = _sums_from_maps(_pixels(queries), key_maps)
        attention = normalise(_cosines(*sums))
        values = rearrange(values, "s (h k) c -> h s k c", h=len(shifts)).to(attention.dtype)
        taps = torch.einsum("bhqsk, hskc -> sbhqc", attention, values).flatten(2, 3)  # [S, B, width, 8C]
        projects = project.out_channels <= project.in_channels  # then the taps do not grow by the projection
        if projects:
            taps = project.weight.flatten(1).to(taps.dtype) @ taps
        taps = taps.to(dtype)
        if convolve:
            out = _convolve_each(padded, surround_kernel(taps), shifts)
        else:
            maps = (surround(index) @ matrix.mT for index, matrix in enumerate(taps))  # [B, H * W, width]
            out = reduce(torch.add, maps).mT.unflatten(2, x.shape[2:])
    return out if projects else project(out)


def _cosines(query_energy: Tensor, products: Tensor, key_energy: Tensor) -> Tensor:
    """The similarities within each head from squared norms and products as `KeyProducts` returns them."""
    heads = len(products)
    query_scale = query_energy.clamp_min(NORM_EPS**2).rsqrt()
    key_scale = key_energy.clamp_min(NORM_EPS**2).rsqrt()
    scores = products * query_scale[None, :, :, None] * key_scale[:, :, None]
    # a head's queries meet that head's keys only
    scores = rearrange(scores, "s b (g q) (h k) -> g h b q s k", g=heads, h=heads)
    return torch.stack([scores[head, head] for head in range(heads)], dim=1)


def _surrounds(padded: Tensor, shifts: tuple[int, ...]) -> Callable[[int], Tensor]:
    """A function that gives the surround of a shift by its index.

    Each is made once where it is kept for the backward pass, else whenever it is asked for, to save memory.
    """
    margin = max(shifts)
    if not torch.is_grad_enabled():
        return lambda index: _surround(padded, margin, shifts[index])
    return [_surround(padded, margin, shift) for shift in shifts].__getitem__


def _surround(padded: Tensor, margin: int, shift: int) -> Tensor:
    """The eight neighbours at distance `shift` minus the centre, of an image padded by `margin`: [B, H * W, 8 * C],
    direction outer and channel inner, directions in raster order."""
    height, width = (side - 2 * margin for side in padded.shape[2:])
    pixels = padded.permute(0, 2, 3, 1)
    steps = [-shift, 0, shift]
    moved = [
        pixels[:, margin + down : margin + down + height, margin + right : margin + right + width]
        for down in steps
        for right in steps
    ]
    centre = moved.pop(4)
    return torch.stack(moved, dim=3).sub_(centre.unsqueeze(3)).flatten(3).flatten(1, 2)


def _sums_from_grams(
    x: Tensor, padded: Tensor, query: Tensor, keys: Tensor, shifts: tuple[int, ...]
) -> tuple[Tensor, Tensor, Tensor]:
    """What `KeyProducts` returns, in float32 or better, from the image and the weights of queries and keys."""
    wide = torch.promote_types(x.dtype, torch.float32)
    mean = x.detach().mean(dim=(2, 3), dtype=wide)[..., None]
    return KeyProducts.apply(query.flatten(1).to(wide), padded.to(wide), mean, surround_weights(keys.to(wide)), shifts)


def _sums_from_maps(queries: Tensor, keys: Iterable[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """What `KeyProducts` returns, from the queries [B, H * W, Q] and for every shift the keys [B, H * W, K]."""
    wide = torch.promote_types(queries.dtype, torch.float32)
    queries = _widened(queries)
    products, key_energy = [], []
    for key in map(_widened, keys):
        products.append((queries.mT @ key).to(wide))
        key_energy.append(torch.linalg.vector_norm(key, dim=1, dtype=wide).square())  # needs no map of squares
    return queries.square().sum(dim=1, dtype=wide), torch.stack(products), torch.stack(key_energy)


def surround_weights(taps: Tensor) -> Tensor:
    """Weights of the 3x3 patch that equal those of its surround: of the centre, minus the sum of all others.

    [..., O, 8 * C], direction outer and channel inner, directions in raster order -> [..., O, 9 * C].
    """
    taps = taps.unflatten(-1, (8, -1))
    before, after = taps.split(4, dim=-2)
    return torch.cat([before, -taps.sum(dim=-2, keepdim=True), after], dim=-2).flatten(-2)


def surround_kernel(taps: Tensor) -> Tensor:
    """The 3x3 kernel [..., O, C, 3, 3] that equals a 1x1 convolution [..., O, 8 * C] of the surround."""
    return rearrange(surround_weights(taps), "... o (kh kw c) -> ... o c kh kw", kh=3, kw=3)


def _pixels(maps: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, H * W, C]."""
    return maps.permute(0, 2, 3, 1).flatten(1, 2)


def _widened(x: Tensor) -> Tensor:
    """float16 as float32, any other type as it is."""
    return x.float() if x.dtype == torch.float16 else x


def _convolve(padded: Tensor, kernels: Iterable[Tensor], shifts: tuple[int, ...]) -> Iterator[Tensor]:
    """The convolutions of an image padded by the largest shift with the 3x3 kernels of the shifts."""
    for shift, kernel in zip(shifts, kernels, strict=True):
        yield F.conv2d(crop_border(padded, max(shifts) - shift), kernel, dilation=shift)


def _convolve_each(padded: Tensor, kernels: Tensor, shifts: tuple[int, ...]) -> Tensor:
    """Convolve every sample with its kernels of all shifts, and add the results.

    padded: [B, C, H + 2m, W + 2m]; kernels: [S, B, O, C, 3, 3]. Returns [B, O, H, W].
    """
    samples = zip(padded.split(1), kernels.unbind(dim=1), strict=True)
    return torch.cat([reduce(torch.add, _convolve(sample, kernel, shifts)) for sample, kernel in samples])
