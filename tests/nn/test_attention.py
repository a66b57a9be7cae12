"""Causal attention against its formula, one site at a time."""

import math

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nextpixel.nn import Cache, CausalAttention, Delayed, Site

heights, widths = st.integers(1, 5), st.integers(1, 6)


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The textbook, for sites in raster order: every site attends to those strictly before it."""
    query, key, value = (t.flatten(2) for t in (query, key, value))
    out = torch.zeros_like(value)
    for batch in range(len(value)):
        for i in range(1, value.shape[2]):
            scores = torch.stack(
                [
                    (query[batch, :, i] * key[batch, :, j]).sum() / math.sqrt(key.shape[1])
                    for j in range(i)
                ]
            )
            weights = scores.exp() / scores.exp().sum()
            for j in range(i):
                out[batch, :, i] += weights[j] * value[batch, :, j]
    return out


@given(
    height=heights,
    width=widths,
    channels=st.sampled_from([(1, 1), (2, 5), (5, 2), (4, 4)]),
)
@torch.no_grad()
def test_attention_equals_the_textbook(height: int, width: int, channels: tuple[int, int]) -> None:
    """Of whole maps, and in steps, which get keys and values through `Delayed`."""
    query, key, value = (
        2 * torch.randn(2, n, height, width, dtype=torch.float64)
        for n in (channels[0], channels[0], channels[1])
    )
    layer = CausalAttention(*channels, (height, width)).double()
    delayed = [Delayed(n).double() for n in channels]
    whole = layer(query, delayed[0](key), delayed[1](value))
    expected = attention(query, key, value).view_as(value)
    torch.testing.assert_close(whole, expected, rtol=0, atol=1e-12)
    assert not expected[:, :, 0, 0].any()

    cache = Cache(layers={one: one.new_cache(2, width) for one in (layer, *delayed)})
    for row in range(height):
        for col in range(width):
            cache.site = Site(row, col)
            at_site = [t[:, :, row, col] for t in (query, key, value)]
            before = [one(new, cache=cache) for one, new in zip(delayed, at_site[1:], strict=True)]
            out = layer(at_site[0], *before, cache=cache)
            torch.testing.assert_close(out, expected[:, :, row, col], rtol=0, atol=1e-12)


def test_delayed_returns_the_input_of_the_site_before() -> None:
    layer = Delayed(3)
    x = torch.randn(2, 3, 2, 2)
    assert torch.equal(layer(x), x)
    cache = Cache(layers={layer: layer.new_cache(2, 2)})
    before = torch.zeros(2, 3)
    for row in range(2):
        for col in range(2):
            cache.site = Site(row, col)
            handed = x[:, :, row, col].clone()
            assert torch.equal(layer(handed, cache), before)
            before = x[:, :, row, col]
            handed += 1  # what it kept is its own
