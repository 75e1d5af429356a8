"""Mathematical facts of the PyTorch reference: caching, padding, order and time of frames."""

import numpy as np
import pytest
import torch

from export.checkpoint.checkpoint import Checkpoint
from export.releases import load_config
from validation.reference.minicpmv import build_empty, load_part
from validation.reference.qwen import KeyValueCache, rotate

CONTEXT = 32


@pytest.fixture(scope="module")
def config(random_checkpoint):
    return load_config(random_checkpoint)


@pytest.fixture(scope="module")
def model(random_checkpoint, config):
    loaded = build_empty(config)
    for part in ("vpm", "resampler", "llm"):
        setattr(loaded, part, load_part(loaded, part, Checkpoint(random_checkpoint)))
    return loaded


def random_tensor(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_parameters_are_the_checkpoints_values(model, random_checkpoint):
    checkpoint = Checkpoint(random_checkpoint)
    for name, value in model.named_parameters():
        stored = checkpoint.read(name).astype(np.float32)
        np.testing.assert_array_equal(value.numpy(), stored, err_msg=name)


def test_loading_a_part_leaves_the_model_empty(random_checkpoint, config):
    model = build_empty(config)
    layer = load_part(model, "llm.model.layers.1", Checkpoint(random_checkpoint))
    name = "llm.model.layers.1.mlp.up_proj.weight"
    stored = Checkpoint(random_checkpoint).read(name).astype(np.float32)
    np.testing.assert_array_equal(layer.mlp.up_proj.weight.numpy(), stored)
    assert all(p.is_meta for p in model.parameters())


@pytest.mark.parametrize("prefill", [1, 5, 11])
def test_prefill_and_single_steps_equal_one_full_forward(model, config, prefill):
    x = random_tensor(0, 12, config.decoder.hidden_size)
    full = model.llm.run_layers(x, 0, KeyValueCache.empty(config.decoder, CONTEXT))
    cache = KeyValueCache.empty(config.decoder, CONTEXT)
    parts = [model.llm.run_layers(x[:prefill], 0, cache)]
    for n in range(prefill, 12):
        parts.append(model.llm.run_layers(x[n : n + 1], n, cache))
    torch.testing.assert_close(torch.cat(parts), full, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        model.llm.logits(torch.cat(parts)), model.llm.logits(full), rtol=1e-4, atol=1e-5
    )


def test_decoder_is_causal(model, config):
    x = random_tensor(1, 8, config.decoder.hidden_size)
    changed = x.clone()
    changed[5:] += 1
    first, second = (
        model.llm.run_layers(given, 0, KeyValueCache.empty(config.decoder, CONTEXT))
        for given in (x, changed)
    )
    torch.testing.assert_close(first[:5], second[:5], rtol=0, atol=1e-6)
    assert (first[5:] - second[5:]).abs().max() > 0.1


def test_layers_run_in_parts_equal_all_at_once(model, config):
    x = random_tensor(2, 6, config.decoder.hidden_size)
    whole = model.llm.run_layers(x, 0, KeyValueCache.empty(config.decoder, CONTEXT))
    cache = KeyValueCache.empty(config.decoder, CONTEXT)
    half = model.llm.run_layers(x, 0, cache, range(0, 1))
    torch.testing.assert_close(model.llm.run_layers(half, 0, cache, range(1, 2)), whole)


def test_rotary_products_depend_on_the_distance_alone():
    q, k = random_tensor(3, 1, 1, 64), random_tensor(4, 1, 1, 64)
    frequencies = 1e6 ** (-torch.arange(0, 64, 2).float() / 64)

    def product(m, n):
        turned = [rotate(x, torch.tensor([p]), frequencies).double() for x, p in ((q, m), (k, n))]
        return (turned[0] * turned[1]).sum().item()

    assert product(7, 3) == pytest.approx(product(104, 100), rel=1e-4)
    assert product(0, 0) == pytest.approx((q.double() * k.double()).sum().item(), rel=1e-6)
    assert product(7, 3) != pytest.approx(product(7, 4), rel=1e-3)


def test_vision_features_do_not_depend_on_padding(model, config):
    patch_values = 3 * config.vision.patch_size**2
    patches = random_tensor(5, 1, 20, patch_values)
    ids = torch.arange(20)[None] * 3
    alone = model.vpm(patches, ids, torch.ones(1, 20, dtype=torch.bool))
    padding = random_tensor(6, 1, 12, patch_values) * 9
    padded = torch.cat([patches, padding], 1)
    padded_ids = torch.cat([ids, torch.zeros(1, 12, dtype=torch.int64)], 1)
    valid = torch.arange(32)[None] < 20
    together = model.vpm(padded, padded_ids, valid)
    torch.testing.assert_close(together[:, :20], alone, rtol=1e-4, atol=1e-5)
    unmasked = model.vpm(padded, padded_ids, torch.ones_like(valid))
    assert (unmasked[:, :20] - alone).abs().max() > 0.01


def test_views_of_a_batch_do_not_meet(model, config):
    patches = random_tensor(7, 2, 9, 3 * config.vision.patch_size**2)
    ids = torch.arange(18).view(2, 9)
    valid = torch.ones(2, 9, dtype=torch.bool)
    both = model.vpm(patches, ids, valid)
    for n in range(2):
        one = model.vpm(patches[n : n + 1], ids[n : n + 1], valid[:1])
        torch.testing.assert_close(both[n : n + 1], one, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def frames(config):
    """Three frames of different sizes: (features, positions) each."""
    return [
        (
            random_tensor(n, size, config.vision.hidden_size),
            random_tensor(n + 10, size, config.decoder.hidden_size),
        )
        for n, size in enumerate((12, 7, 9))
    ]


def resample(model, frames, times):
    """The group's embeddings; a frame's time adds one vector to all its key positions."""
    features = torch.cat([f for f, _ in frames])
    positions = torch.cat([p + time for (_, p), time in zip(frames, times, strict=True)])
    return model.resampler(features, positions)


def test_order_of_frames_does_not_matter(model, config, frames):
    times = [random_tensor(20 + n, config.decoder.hidden_size) for n in range(3)]
    forward = resample(model, frames, times)
    backward = resample(model, frames[::-1], times[::-1])
    torch.testing.assert_close(backward, forward, rtol=1e-4, atol=1e-5)
    swapped = resample(model, frames, times[::-1])
    assert (swapped - forward).abs().max() > 0.01


def test_group_of_one_frame_ignores_its_time(model, config, frames):
    time = random_tensor(30, config.decoder.hidden_size)
    with_time = resample(model, frames[:1], [time])
    torch.testing.assert_close(with_time, resample(model, frames[:1], [0]), rtol=1e-4, atol=1e-5)
    two = resample(model, frames[:2], [time, 0 * time]), resample(model, frames[:2], [0, 0])
    assert (two[0] - two[1]).abs().max() > 0.01


def test_values_carry_no_positions(model, config, frames):
    """With equal features everywhere, positions move weights between equal values only."""
    features, positions = frames[0]
    same = features[:1].expand_as(features)
    torch.testing.assert_close(
        model.resampler(same, positions),
        model.resampler(same, 0 * positions),
        rtol=1e-4,
        atol=1e-5,
    )


def test_resampler_is_torchs_attention_between_its_norms(model, config, frames):
    resampler, size = model.resampler, config.decoder.hidden_size
    attention = torch.nn.MultiheadAttention(size, config.resampler_heads)
    attention.load_state_dict(resampler.attn.state_dict())
    features, positions = frames[0]
    x = resampler.ln_kv(resampler.kv_proj(features))
    query = resampler.ln_q(resampler.query)
    with torch.no_grad():
        out = attention(query, x + positions, x, need_weights=False)[0]
    expected = resampler.ln_post(out) @ resampler.proj
    actual = resampler(features, positions)
    assert actual.shape == (config.num_queries, size)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_folded_queries_give_the_same_embeddings(model, random_checkpoint, config, frames):
    from export.graphs.parameters import fold_key_query

    features, positions = frames[1]
    expected = model.resampler(features, positions)
    folded = fold_key_query(Checkpoint(random_checkpoint), config.resampler_heads)
    model.resampler.key_query = torch.from_numpy(folded)
    try:
        actual = model.resampler(features, positions)
    finally:
        model.resampler.key_query = None
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
