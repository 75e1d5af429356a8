import json
import random
import shutil

import pytest
from tokenizers import Tokenizer

from export.host.chat_format import TEXT_TOKENS
from export.host.chat_template import COMPACT
from export.host.tokenizer import build_tokenizer_files
from export.releases import DEFAULT_RELEASE
from mobile_runtime.chat.prompt import encode_text
from mobile_runtime.chat.tokenizer import Tokenizer as RuntimeTokenizer
from mobile_runtime.errors import InputError
from tests.paths import GOLDEN, UPSTREAM


@pytest.fixture
def checkpoint(tmp_path):
    """A writable checkpoint folder with the tiny tokenizer's files."""
    folder = tmp_path / "checkpoint"
    shutil.copytree(GOLDEN / "tiny_tokenizer", folder)
    (folder / "chat_template.jinja").write_text(COMPACT, encoding="utf-8")
    return folder


def _edit(path, change):
    value = json.loads(path.read_text(encoding="utf-8"))
    change(value)
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def test_published_ids_and_golden_prompts(tmp_path):
    if not (UPSTREAM / "vocab.json").is_file():
        pytest.skip("needs the published tokenizer in ../shared/upstream")
    prompt = build_tokenizer_files(UPSTREAM, tmp_path, 151748, DEFAULT_RELEASE.chat)
    assert {token.content: token.id for token in prompt.special_tokens.values()} == {
        "<|im_start|>": 151644,
        "<|im_end|>": 151645,
        "<|endoftext|>": 151643,
        "<think>": 151667,
        "</think>": 151668,
        "<image>": 151669,
        "</image>": 151670,
        "<slice>": 151679,
        "</slice>": 151680,
        "<image_id>": 151681,
        "</image_id>": 151682,
        "<unk>": 128244,
        "<ref>": 151671,
        "</ref>": 151672,
        "<box>": 151673,
        "</box>": 151674,
        "<quad>": 151675,
        "</quad>": 151676,
        "<point>": 151677,
        "</point>": 151678,
    }
    assert prompt.stop_token_ids == (151645, 151643)
    library = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert library.get_vocab_size() == 151748
    for entry in json.loads((GOLDEN / "prompts.json").read_text(encoding="utf-8")):
        text = library.decode(entry["input_ids"], skip_special_tokens=False)
        assert library.encode(text, add_special_tokens=False).ids == entry["input_ids"]


@pytest.mark.parametrize("seed", range(5))
def test_places_in_a_picture_are_tokens_as_published(shared, seed, tmp_path):
    """The library keeps all added tokens out of texts; these are the ones that belong there."""
    prompt = build_tokenizer_files(shared / "upstream", tmp_path, 151748, DEFAULT_RELEASE.chat)
    library = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    runtime = RuntimeTokenizer.load(tmp_path / "tokenizer.json")
    rng = random.Random(seed)
    pieces = [
        *TEXT_TOKENS.values(),
        "book",
        " 10 20 30 40",
        " ",
        "\n",
        "<",
        "</",
        "ref>",
        "<re",
        "博",
    ]
    for _ in range(200):
        text = "".join(rng.choices(pieces, k=rng.randint(0, 12)))
        ids = encode_text(text, runtime, prompt)
        assert ids == library.encode(text, add_special_tokens=False).ids
        assert runtime.decode(ids, skip_special=False) == text
    assert encode_text("<ref>book</ref>", runtime, prompt) == [151671, 2190, 151672]
    assert max(encode_text("<image><unk><|im_start|>", runtime, prompt)) < 151646


def test_files_of_the_checkpoint_are_copied(checkpoint, tmp_path):
    (checkpoint / "added_tokens.json").write_text("{}")
    prompt = build_tokenizer_files(checkpoint, tmp_path / "deep" / "out", 315, DEFAULT_RELEASE.chat)
    out = tmp_path / "deep" / "out"
    names = {"tokenizer.json", "chat_template.jinja", "added_tokens.json", "vocab.json"}
    assert {path.name for path in out.iterdir()} == names | {"merges.txt", "tokenizer_config.json"}
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json", "chat_template.jinja"):
        assert (out / name).read_bytes() == (checkpoint / name).read_bytes()
    assert prompt.chat_template == (checkpoint / "chat_template.jinja").read_text()


def test_same_checkpoint_gives_the_same_bytes(checkpoint, tmp_path):
    for name in ("a", "b"):
        build_tokenizer_files(checkpoint, tmp_path / name, 315, DEFAULT_RELEASE.chat)
    assert (tmp_path / "a/tokenizer.json").read_bytes() == (
        tmp_path / "b/tokenizer.json"
    ).read_bytes()


def test_given_tokenizer_json_is_copied(checkpoint, tmp_path):
    built = build_tokenizer_files(checkpoint, tmp_path / "a", 315, DEFAULT_RELEASE.chat)
    shutil.copyfile(tmp_path / "a/tokenizer.json", checkpoint / "tokenizer.json")
    for name in ("vocab.json", "merges.txt"):
        (checkpoint / name).unlink()
    assert build_tokenizer_files(checkpoint, tmp_path / "b", 315, DEFAULT_RELEASE.chat) == built
    assert (tmp_path / "b/tokenizer.json").read_bytes() == (
        tmp_path / "a/tokenizer.json"
    ).read_bytes()


def test_template_may_stand_in_the_config(checkpoint, tmp_path):
    path = checkpoint / "chat_template.jinja"
    template = path.read_text()
    path.unlink()
    _edit(checkpoint / "tokenizer_config.json", lambda c: c.update(chat_template=template))
    assert (
        build_tokenizer_files(checkpoint, tmp_path / "out", 315, DEFAULT_RELEASE.chat).chat_template
        == template
    )


def test_another_template_is_refused(checkpoint, tmp_path):
    path = checkpoint / "chat_template.jinja"
    path.write_text(path.read_text() + "{# changed #}")
    with pytest.raises(InputError, match="chat template"):
        build_tokenizer_files(checkpoint, tmp_path / "out", 315, DEFAULT_RELEASE.chat)


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt", "tokenizer_config.json"])
def test_missing_file_is_named(name, checkpoint, tmp_path):
    (checkpoint / name).unlink()
    with pytest.raises(InputError, match=name):
        build_tokenizer_files(checkpoint, tmp_path / "out", 315, DEFAULT_RELEASE.chat)


def test_without_a_template_the_format_is_the_runtimes_own(checkpoint, tmp_path):
    (checkpoint / "chat_template.jinja").unlink()
    assert (
        build_tokenizer_files(checkpoint, tmp_path / "out", 315, DEFAULT_RELEASE.chat).chat_template
        == COMPACT
    )


def test_a_tokenizer_json_needs_no_other_file(checkpoint, tmp_path):
    expected = build_tokenizer_files(checkpoint, tmp_path / "whole", 315, DEFAULT_RELEASE.chat)
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "tokenizer.json").write_bytes((tmp_path / "whole/tokenizer.json").read_bytes())
    assert build_tokenizer_files(alone, tmp_path / "out", 315, DEFAULT_RELEASE.chat) == expected


def test_settings_of_a_newer_library_declare_no_tokens(checkpoint, tmp_path):
    """Those stand in tokenizer.json then, which is needed."""
    expected = build_tokenizer_files(checkpoint, tmp_path / "whole", 315, DEFAULT_RELEASE.chat)
    _edit(checkpoint / "tokenizer_config.json", lambda c: c.pop("added_tokens_decoder"))
    with pytest.raises(InputError, match=r"no added_tokens_decoder; .* or tokenizer.json"):
        build_tokenizer_files(checkpoint, tmp_path / "out", 315, DEFAULT_RELEASE.chat)
    (checkpoint / "tokenizer.json").write_bytes((tmp_path / "whole/tokenizer.json").read_bytes())
    assert build_tokenizer_files(checkpoint, tmp_path / "o", 315, DEFAULT_RELEASE.chat) == expected


@pytest.mark.parametrize("name", ["vocab.json", "tokenizer.json", "tokenizer_config.json"])
def test_damaged_file_is_named(name, checkpoint, tmp_path):
    (checkpoint / name).write_text('{"model": ')
    with pytest.raises(InputError, match=name):
        build_tokenizer_files(checkpoint, tmp_path / "out", 315, DEFAULT_RELEASE.chat)


def test_missing_special_tokens_are_named(checkpoint, tmp_path):
    def drop(config):
        tokens = config["added_tokens_decoder"]
        last = max(tokens, key=int)
        tokens[last]["content"] = "<something else>"
        for key in [k for k, t in tokens.items() if t["content"] in ("<unk>",)]:
            del tokens[key]

    _edit(checkpoint / "tokenizer_config.json", drop)
    with pytest.raises(InputError, match="lacks the special tokens <unk>"):
        build_tokenizer_files(checkpoint, tmp_path / "out", 315, DEFAULT_RELEASE.chat)


def test_token_with_another_id_is_named(checkpoint, tmp_path):
    def shift(config):
        tokens = config["added_tokens_decoder"]
        first = min((key for key, t in tokens.items() if t["content"] != "<unk>"), key=int)
        del tokens[first]

    _edit(checkpoint / "tokenizer_config.json", shift)
    with pytest.raises(InputError, match=r"declares <.*> as token 274"):
        build_tokenizer_files(checkpoint, tmp_path / "out", 315, DEFAULT_RELEASE.chat)


def test_ids_beyond_the_embedding_table_are_refused(checkpoint, tmp_path):
    with pytest.raises(InputError, match=r"id 314 and the model has 314 embeddings"):
        build_tokenizer_files(checkpoint, tmp_path / "out", 314, DEFAULT_RELEASE.chat)
    assert not (tmp_path / "out").exists()
