"""The tiny random model: complete, reproducible, with a tokenizer that holds any text."""

import numpy as np
import pytest
from tokenizers import Tokenizer

from export.checkpoint.checkpoint import Checkpoint
from export.checkpoint.source import check_tensors
from export.host.chat_format import SPECIAL_TOKENS
from export.models.tensors import tensor_shapes
from export.releases import load_config
from tests.random_checkpoint import write_random_checkpoint


def test_two_runs_write_the_same_bytes(random_checkpoint, tmp_path):
    write_random_checkpoint(tmp_path / "again")
    first = {p.name: p.read_bytes() for p in random_checkpoint.iterdir()}
    second = {p.name: p.read_bytes() for p in (tmp_path / "again").iterdir()}
    assert first == second


def test_every_tensor_of_its_configuration_is_there(random_checkpoint):
    config = load_config(random_checkpoint)
    checkpoint = Checkpoint(random_checkpoint)
    check_tensors(checkpoint, tensor_shapes(config), "it", "whole")
    assert {info.dtype for info in checkpoint.tensors.values()} == {"bfloat16"}


def test_weights_are_of_a_size_that_keeps_activations_finite(random_checkpoint):
    checkpoint = Checkpoint(random_checkpoint)
    for name, info in checkpoint.tensors.items():
        values = checkpoint.read(name).astype(np.float32)
        if name.endswith("bias"):
            assert np.abs(values).max() < 0.5, name
        elif len(info.shape) == 1:
            assert values.min() > 0, name
            assert abs(values.mean() - 1) < 0.1, name
        else:
            fan_in = np.prod(info.shape[1:])
            assert values.std() * fan_in**0.5 == pytest.approx(1, rel=0.05), name


def test_no_two_tensors_hold_the_same_numbers(random_checkpoint):
    checkpoint = Checkpoint(random_checkpoint)
    contents = [checkpoint.read(name).tobytes() for name in checkpoint.tensors]
    assert len(set(contents)) == len(contents)


def test_vocabulary_fits_the_embedding_and_ends_in_the_special_tokens(random_checkpoint):
    tokenizer = Tokenizer.from_file(str(random_checkpoint / "tokenizer.json"))
    size = load_config(random_checkpoint).decoder.vocab_size
    assert tokenizer.get_vocab_size() == size
    ids = [tokenizer.token_to_id(token) for token in SPECIAL_TOKENS.values()]
    assert sorted(ids) == list(range(256, size))


@pytest.mark.parametrize("text", ["plain", "  two  spaces\n\n", "漢字 é 🙂", "\x00\x7f"])
def test_any_text_survives_one_token_a_byte(random_checkpoint, text):
    tokenizer = Tokenizer.from_file(str(random_checkpoint / "tokenizer.json"))
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert len(ids) == len(text.encode())
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
