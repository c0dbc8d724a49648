"""Attention to the surround of each pixel.

The published form concatenates, for each shift d, the eight neighbours at distance d minus the centre into 8C channels
(the surround), and its keys and values are 1x1 convolutions Wk and Wv of them. Its scores are cosines over all pixels:
of the keys it takes only their products with the queries and their norms (`KeyProducts`). Its output, softmax(scores)
times the values, is linear in the values: softmax(scores) Wv is one small matrix per sample, and its product with the
surround is the output, so that no values are computed. There are two ways to multiply the surround by a matrix:

* GPUs, and exported networks, build the surround: at a GPU's bandwidth that is faster than cuDNN's dilated and grouped
  convolutions.
* CPUs do not. A 1x1 convolution of "neighbour minus centre" is one 3x3 convolution with dilation d, whose outer taps
  are the eight blocks of its weight and whose centre tap is minus their sum (`surround_kernel`). Keys are computed a
  band of rows at a time, which stays in the processor's cache, and again in the backward pass: they are never stored.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from istd.models import ops

BAND_BYTES = 4 << 20  # of key values in flight on a CPU: about the size of two cores' second-level caches
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

    x [B, C, H, W]; query [B, width, H, W]; key and value: the 1x1 convolutions of the surround of each shift.
    `normalise` turns cosine similarities over all pixels, of every query channel to the keys of its head, into
    attention weights, both [B, heads, hidden, shifts, keys of a shift] with as many heads as shifts, in float32 or
    better.
    """
    keys, values = (torch.stack([conv.weight.flatten(1) for conv in convs]) for convs in (key, value))  # [S, K, 8C]
    convolve = ops.on_cpu(x) and not ops.is_exporting()
    with torch.autocast(x.device.type, enabled=False):
        x, keys = x.to(query.dtype), keys.to(query.dtype)
        padded = F.pad(x, (max(shifts),) * 4, mode="reflect").contiguous(memory_format=torch.channels_last)
        if convolve:
            sums = KeyProducts.apply(query, padded, surround_kernel(keys), shifts)
        else:
            surround = _surrounds(padded, shifts)
            sums = _key_products(query, surround, keys)
        attention = normalise(_cosines(*sums))
        values = rearrange(values, "s (h k) c -> h s k c", h=len(shifts)).to(attention.dtype)
        taps = torch.einsum("bhqsk, hskc -> sbhqc", attention, values).flatten(2, 3)  # [S, B, width, 8C]
        projects = project.out_channels <= project.in_channels  # then the taps do not grow by the projection
        if projects:
            taps = project.weight.flatten(1).to(taps.dtype) @ taps
        taps = taps.to(x.dtype)
        if convolve:
            out = _convolve_each(padded, surround_kernel(taps), shifts)
        else:
            maps = [surround(index) @ matrix.mT for index, matrix in enumerate(taps)]  # [B, H * W, width]
            out = sum(maps[1:], maps[0]).mT.unflatten(2, x.shape[2:])
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


def _key_products(query: Tensor, surround: Callable[[int], Tensor], keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What `KeyProducts` returns, from the surrounds [B, H * W, 8 * C] and key weights [S, K, 8 * C]."""
    wide = torch.promote_types(query.dtype, torch.float32)
    rows = _widened(_pixels(query))
    products, key_energy = [], []
    for index, weight in enumerate(keys):
        key = _widened(surround(index) @ weight.T)  # [B, H * W, K]
        products.append((rows.mT @ key).to(wide))
        key_energy.append(torch.linalg.vector_norm(key, dim=1, dtype=wide).square())  # needs no map of squares
    return rows.square().sum(dim=1, dtype=wide), torch.stack(products), torch.stack(key_energy)


def surround_kernel(taps: Tensor) -> Tensor:
    """The 3x3 kernel that equals a 1x1 convolution of the surround.

    taps: [..., O, 8 * C], direction outer and channel inner, directions in raster order. Returns [..., O, C, 3, 3].
    """
    taps = taps.unflatten(-1, (8, -1))
    before, after = taps.split(4, dim=-2)
    kernel = torch.cat([before, -taps.sum(dim=-2, keepdim=True), after], dim=-2)
    return rearrange(kernel, "... o (kh kw) c -> ... o c kh kw", kh=3)


def _bands(query: Tensor, channels: int) -> list[tuple[int, int]]:
    """Row ranges [first, last) whose keys, `channels` wide, fit into BAND_BYTES; one range for the compiler."""
    batch, _, height, width = query.shape
    if not ops.in_pieces(query):
        return [(0, height)]
    rows = max(1, BAND_BYTES // (query.element_size() * batch * width * channels))
    return [(first, min(first + rows, height)) for first in range(0, height, rows)]


def _window(padded: Tensor, first: int, last: int, margin: int, shift: int) -> Tensor:
    """The part of an image padded by `margin` that a 3x3 kernel of dilation `shift` needs for rows [first, last)."""
    cut = margin - shift
    return padded[..., first + cut : last + margin + shift, cut : padded.shape[-1] - cut]


def _pixels(maps: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, H * W, C]."""
    return maps.permute(0, 2, 3, 1).flatten(1, 2)


def _widened(x: Tensor) -> Tensor:
    """float16 as float32, any other type as it is."""
    return x.float() if x.dtype == torch.float16 else x


class KeyProducts(torch.autograd.Function):
    """Products of queries and keys, and squared norms of both, summed over all pixels.

    query [B, Q, H, W]; padded [B, C, H + 2m, W + 2m]; kernels [S, K, C, 3, 3] of S shifts, where K = 8 * hidden.
    Returns query_energy [B, Q], and stacked over shifts products [S, B, Q, K] and key_energy [S, B, K], in float32
    or better. Float16 could not hold the sums, so there the products are computed in float32 too.

    With Q [H * W, queries] of a sample, and K_s [H * W, K] its keys of shift s, which are a convolution of `padded`:

        query_energy = sum over pixels of Q^2    products_s = Q^T K_s    key_energy_s = sum over pixels of K_s^2

    With the gradients of these three written e, M_s and n_s, those of queries and keys are

        d Q = 2 e Q + sum over s of K_s M_s^T    d K_s = Q M_s + 2 n_s K_s

    and d K_s goes on to `padded` and the kernel through the backward pass of the convolution. A pixel's gradients need
    the keys of that pixel alone, so that bands of rows can be treated one after the other.
    """

    @staticmethod
    def forward(ctx, query: Tensor, padded: Tensor, kernels: Tensor, shifts: tuple[int, ...]):
        ctx.save_for_backward(query, padded, kernels)
        ctx.shifts = shifts
        margin = max(shifts)
        batch, queries = query.shape[:2]
        keys = kernels.shape[1]
        total = {"dtype": torch.promote_types(query.dtype, torch.float32), "device": query.device}
        query_energy = torch.zeros(batch, queries, **total)
        products = torch.zeros(len(shifts), batch, queries, keys, **total)
        key_energy = torch.zeros(len(shifts), batch, keys, **total)
        for first, last in _bands(query, keys):
            rows = _widened(_pixels(query[:, :, first:last]))
            query_energy += rows.square().sum(dim=1, dtype=total["dtype"])
            for index, (shift, kernel) in enumerate(zip(shifts, kernels, strict=True)):
                key = _widened(_pixels(F.conv2d(_window(padded, first, last, margin, shift), kernel, dilation=shift)))
                products[index] += rows.transpose(1, 2) @ key
                key_energy[index] += key.square_().sum(dim=1, dtype=total["dtype"])
        return query_energy, products, key_energy

    @staticmethod
    def backward(ctx, grad_query_energy: Tensor, grad_products: Tensor, grad_key_energy: Tensor):
        query, padded, kernels = ctx.saved_tensors
        shifts, margin = ctx.shifts, max(ctx.shifts)
        grad_query = torch.empty_like(query)
        grad_padded = torch.zeros_like(padded)
        grad_kernels = torch.zeros_like(kernels, dtype=grad_products.dtype)
        wide = _widened(query[:0]).dtype
        twice_query = (2 * grad_query_energy).to(wide)[:, None]
        twice_key = (2 * grad_key_energy).to(wide)[:, :, None]
        grad_products = grad_products.to(wide)
        for first, last in _bands(query, kernels.shape[1]):
            rows = _widened(_pixels(query[:, :, first:last]))
            grad_rows = rows * twice_query
            for index, (shift, kernel) in enumerate(zip(shifts, kernels, strict=True)):
                window = _window(padded, first, last, margin, shift).contiguous(memory_format=torch.channels_last)
                key = _widened(_pixels(F.conv2d(window, kernel, dilation=shift)))
                grad_rows.baddbmm_(key, grad_products[index].transpose(1, 2))
                key.mul_(twice_key[index]).baddbmm_(rows, grad_products[index])  # the keys become their gradient
                grad_window, grad_kernel, _ = torch.ops.aten.convolution_backward(
                    rearrange(key, "b (h w) k -> b k h w", h=last - first).to(kernel.dtype),
                    window, kernel, None, [1, 1], [0, 0], [shift, shift], False, [0, 0], 1, [True, True, False],
                )  # fmt: skip
                _window(grad_padded, first, last, margin, shift).add_(grad_window)
                grad_kernels[index] += grad_kernel
            grad_query[:, :, first:last] = rearrange(grad_rows, "b (h w) q -> b q h w", h=last - first)
        return grad_query, grad_padded, grad_kernels.to(kernels.dtype), None


def _convolve_each(padded: Tensor, kernels: Tensor, shifts: tuple[int, ...]) -> Tensor:
    """Convolve every sample with its kernels of all shifts, and add the results.

    padded: [B, C, H + 2m, W + 2m]; kernels: [S, B, O, C, 3, 3]. Returns [B, O, H, W].
    """
    margin = max(shifts)
    height = padded.shape[2] - 2 * margin
    outputs = []
    for sample, sample_kernels in zip(padded.split(1), kernels.unbind(dim=1), strict=True):
        maps = [
            F.conv2d(_window(sample, 0, height, margin, shift), kernel, dilation=shift)
            for shift, kernel in zip(shifts, sample_kernels, strict=True)
        ]
        outputs.append(sum(maps[1:], maps[0]))
    return torch.cat(outputs)
