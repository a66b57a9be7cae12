import numpy as np
import pytest

from nextpixel.data import batch_indices
from nextpixel.data import sampler as sampler_module
from nextpixel.data.sampler import batches, evenly_spaced
from nextpixel.errors import UserError
from nextpixel.noise import Stream


@pytest.mark.parametrize(("n", "batch"), [(10, 5), (10, 3), (7, 7), (5, 12), (1, 4), (100, 32)])
def test_every_image_comes_once_an_epoch(n, batch):
    steps = -(-4 * n // batch)
    order = np.concatenate([batch_indices(n, batch, step, seed=1) for step in range(steps)])
    for epoch in range(4):
        assert sorted(order[epoch * n : (epoch + 1) * n]) == list(range(n))


def test_a_step_is_a_pure_function():
    first = [batch_indices(50, 8, step, seed=4) for step in range(30)]
    sampler_module._permutation.cache_clear()
    backwards = [batch_indices(50, 8, step, seed=4) for step in reversed(range(30))]
    assert np.array_equal(first, backwards[::-1])


def test_the_order_is_the_promised_one():
    """A run that an older version began goes on with the images that it has not seen."""
    steps = [batch_indices(7, 3, step, seed=5).tolist() for step in range(5)]
    assert steps == [[5, 0, 4], [3, 1, 2], [6, 1, 5], [4, 3, 0], [6, 2, 3]]
    assert np.array_equal(batch_indices(7, 3, 4), batch_indices(7, 3, 4, seed=0))
    epochs = [Stream.ORDER.generator(5, epoch).permutation(7) for epoch in range(3)]
    assert np.array_equal(np.concatenate(steps), np.concatenate(epochs)[:15])


def test_epochs_and_seeds_differ():
    epochs = [tuple(batch_indices(50, 50, step, seed=s)) for step in range(3) for s in range(3)]
    assert len(set(epochs)) == 9


def test_the_order_is_not_made_of_the_noise_of_the_redrawn_bits():
    noise = Stream.BITS.generator(5, 0)
    assert not np.array_equal(batch_indices(50, 50, 0, seed=5), noise.permutation(50))


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_out_the_batch_of_one(world):
    for step in range(10):
        whole = batch_indices(40, 4 * world, step, seed=2)
        parts = [batch_indices(40, 4, step, seed=2, rank=r, world=world) for r in range(world)]
        assert np.array_equal(np.concatenate(parts), whole)


def test_a_batch_belongs_to_the_caller():
    batch = batch_indices(6, 6, 0)
    assert batch.dtype == np.int64
    batch[:] = 0
    assert sorted(batch_indices(6, 6, 0)) == list(range(6))


@pytest.mark.parametrize(
    "wrong",
    [
        {"n": 0},
        {"batch_size": 0},
        {"step": -1},
        {"seed": -1},
        {"rank": 2, "world": 2},
        {"rank": -1},
    ],
)
def test_numbers_out_of_range_are_refused(wrong):
    with pytest.raises(UserError, match="There is no batch"):
        batch_indices(**({"n": 5, "batch_size": 2, "step": 0} | wrong))


def test_indices_are_spaced_evenly():
    assert evenly_spaced(11, 3).tolist() == [0, 5, 10]
    assert evenly_spaced(9, 4).tolist() == [0, 3, 5, 8]
    assert evenly_spaced(9, 1).tolist() == [0]
    for limit in (None, 4, 5):
        assert evenly_spaced(4, limit).tolist() == [0, 1, 2, 3]
    assert evenly_spaced(3, 2).dtype == np.int64


def test_batches_in_order_with_their_progress():
    done = []
    assert [batch.tolist() for batch in batches(5, 2, done.append)] == [[0, 1], [2, 3], [4]]
    assert done == [0.4, 0.8, 1.0]
    assert [batch.tolist() for batch in batches(4, 2)] == [[0, 1], [2, 3]]
