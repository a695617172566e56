"""Masks as bytes: every one comes back, none takes much more than its entropy."""

import numpy as np
import pytest

from finegrid.runs import mask_codec


def random_mask(size: int, density: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(size) < density


@pytest.mark.parametrize("size", [1, 7, 8, 9, 1000, 65_537])
@pytest.mark.parametrize("density", [0.0, 1e-4, 0.01, 0.05, 0.3, 0.5, 0.8, 0.99, 1.0])
def test_round_trip(size: int, density: float) -> None:
    bits = random_mask(size, density)
    assert np.array_equal(mask_codec.decode(mask_codec.encode(bits)), bits)


@pytest.mark.parametrize("bits", [[], [True], [False], [True] * 300, [False] * 5000 + [True]])
def test_round_trip_of_odd_ones(bits: list[bool]) -> None:
    array = np.array(bits, dtype=bool)
    assert np.array_equal(mask_codec.decode(mask_codec.encode(array)), array)


@pytest.mark.parametrize("density", [1e-4, 1e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.7, 0.95])
def test_within_two_percent_of_the_entropy(density: float) -> None:
    bits = random_mask(4_000_000, density)
    bound = mask_codec.entropy_bits(bits.size, int(bits.sum())) / 8
    assert bound <= len(mask_codec.encode(bits)) <= 1.02 * bound + 100


@pytest.mark.parametrize("density", [0.4, 0.5])
def test_never_more_than_packed(density: float) -> None:
    assert len(mask_codec.encode(random_mask(80_000, density))) <= 10_000 + 32


@pytest.mark.parametrize("size", [1, 9, 40, 100])
def test_a_small_mask_takes_no_more_than_its_bits(size: int) -> None:
    for bits in (np.arange(size) == size // 2, np.arange(size) % 7 == 0):
        assert len(mask_codec.encode(bits)) <= mask_codec._HEADER.size + -(-size // 8)


@pytest.mark.parametrize("more", [-1, 1])
def test_a_wrong_number_of_entries_is_refused(more: int) -> None:
    whole = mask_codec.encode(random_mask(10_000, 0.05))
    kind, rare, low, size, count = mask_codec._HEADER.unpack_from(whole)
    assert kind == mask_codec.GAPS
    head = mask_codec._HEADER.pack(kind, rare, low, size, count + more)
    with pytest.raises(ValueError, match="not a coded mask"):
        mask_codec.decode(head + whole[mask_codec._HEADER.size :])


def test_clustered_masks_may_take_less_than_the_entropy_of_independent_bits() -> None:
    bits = np.zeros(100_000, dtype=bool)
    bits[500:1500] = True
    assert np.array_equal(mask_codec.decode(mask_codec.encode(bits)), bits)


def test_several_masks_come_back_with_names_and_shapes() -> None:
    masks = {
        "a": random_mask(600, 0.3).reshape(20, 30),
        "b": random_mask(10_000, 1e-3, 1).reshape(10, 100, 10),
        "none": np.zeros((0,), dtype=bool),
    }
    for chosen in (masks, {"b": masks["b"]}):
        found = mask_codec.decode_all(mask_codec.encode_all(chosen))
        assert list(found) == list(chosen)
        assert all(np.array_equal(found[name], chosen[name]) for name in chosen)


def test_equal_densities_share_one_code_and_unequal_ones_do_not() -> None:
    alike = {str(n): random_mask(50_000, 1e-3, n) for n in range(50)}
    single = sum(len(mask_codec.encode(mask)) for mask in alike.values())
    assert len(mask_codec.encode_all(alike)) < 0.8 * single
    unlike = {"dense": random_mask(200_000, 0.5), "sparse": random_mask(200_000, 1e-3)}
    assert len(mask_codec.encode_all(unlike)) < 26_500


def test_entropy() -> None:
    assert mask_codec.entropy_bits(8, 4) == 8
    assert mask_codec.entropy_bits(8, 0) == mask_codec.entropy_bits(8, 8) == 0
    assert mask_codec.entropy_bits(100, 5) == pytest.approx(mask_codec.entropy_bits(100, 95))


@pytest.mark.parametrize("density", [0.01, 0.5])
@pytest.mark.parametrize("damage", [slice(0, 3), slice(0, 40), slice(0, 200)])
def test_damaged_bytes_are_refused(damage: slice, density: float) -> None:
    whole = mask_codec.encode(random_mask(100_000, density))
    with pytest.raises(ValueError, match="not a coded mask"):
        mask_codec.decode(whole[damage])
