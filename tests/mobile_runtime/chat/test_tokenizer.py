import json
import random
import re
import shutil
import unicodedata

import pytest
import tokenizers

from mobile_runtime.chat.tokenizer import StreamDecoder, Tokenizer
from mobile_runtime.chat.tokenizer_file import WORD_PATTERN
from mobile_runtime.errors import InputError
from tests.paths import ROOT

TEXTS = [
    "",
    "the image, the user; don't\n\n  stop 12345",
    "这张图片里有什么？ 🏴‍☠️ naïve e\u0301",
    "\x00\x7f\x80\xad\xff tabs\t\t and \r\n returns",
]


def _added_contents(prompt):
    return [token.content for token in prompt.special_tokens.values()] + ["<tool_call>", "<box>"]


def _spellings(prompt, count=200):
    """Random texts made of special tokens, fragments of them and ordinary text."""
    rng = random.Random(5)
    pieces = [*_added_contents(prompt), "(<image>./</image>)", "<|", "|>", "<unk", ">"]
    pieces += [" ", "\n", "the", "图", "<<", "0"]
    return ["".join(rng.choices(pieces, k=rng.randint(1, 12))) for _ in range(count)]


@pytest.mark.parametrize("which", ["tiny", "published"])
def test_text_never_yields_an_added_token_and_survives(which, request):
    tokenizer, prompt = request.getfixturevalue(which)
    forbidden = {tokenizer.token_id(text) for text in _added_contents(prompt)}
    for text in _spellings(prompt):
        ids = tokenizer.encode_text(text)
        assert not forbidden & set(ids), text
        assert tokenizer.decode(ids) == text


def test_ordinary_text_has_the_published_ids(published):
    tokenizer, _ = published
    for text, expected in [
        ("What is the landform in the picture?", [3838, 374, 279, 4268, 627, 304, 279, 6802, 30]),
        ('Hello! "quoted" text only.', [9707, 0, 330, 63725, 1, 1467, 1172, 13]),
        ("这张图片里有什么？", [108893, 45930, 69249, 104139, 11319]),
        ("<unk>", [128243, 29]),
    ]:
        assert tokenizer.encode_text(text) == expected


@pytest.mark.parametrize("which", ["tiny", "published"])
@pytest.mark.parametrize("text", TEXTS)
def test_text_survives_a_round_trip(which, text, request):
    tokenizer, _ = request.getfixturevalue(which)
    decoded = tokenizer.decode(tokenizer.encode_text(text))
    assert decoded == unicodedata.normalize("NFC", text)


def test_stream_equals_the_library_on_random_ids(published):
    tokenizer, _ = published
    library = tokenizers.Tokenizer.from_str(tokenizer._backend.to_str())
    rng = random.Random(0)
    for _ in range(100):
        ids = [rng.randrange(tokenizer.vocab_size) for _ in range(rng.randint(1, 30))]
        assert tokenizer.decode(ids, skip_special=False) == library.decode(
            ids, skip_special_tokens=False
        )


def test_stream_holds_back_an_incomplete_character(tiny):
    tokenizer, _ = tiny
    ids = tokenizer.encode_text("é🎉")
    assert len(ids) == 6  # one token a byte
    stream = StreamDecoder(tokenizer)
    assert [stream.push(token_id) for token_id in ids] == ["", "é", "", "", "", "🎉"]
    assert stream.flush() == ""


def test_flush_replaces_an_incomplete_character_once(tiny):
    tokenizer, _ = tiny
    stream = StreamDecoder(tokenizer)
    assert [stream.push(n) for n in tokenizer.encode_text("🎉")[:3]] == ["", "", ""]
    assert stream.flush() == "\N{REPLACEMENT CHARACTER}"
    assert stream.flush() == ""


def test_special_tokens_are_skipped_and_thoughts_are_shown(tiny):
    tokenizer, prompt = tiny
    ids = [prompt.special_tokens[r].id for r in ("think_start", "image_placeholder", "message_end")]
    assert tokenizer.decode(ids) == "<think>"
    assert tokenizer.decode(ids, skip_special=False) == "<think><unk><|im_end|>"


def test_ids_that_only_pad_the_vocabulary_are_silent(tiny):
    tokenizer, _ = tiny
    assert tokenizer.decode([tokenizer.vocab_size + 7]) == ""


def test_unknown_token_is_named(tiny):
    with pytest.raises(InputError, match="<nope>"):
        tiny[0].token_id("<nope>")


def test_lone_surrogate_is_refused(tiny):
    with pytest.raises(InputError, match="surrogate"):
        tiny[0].encode_text("a\ud800b")


@pytest.mark.parametrize(
    "content", [None, "", "{", "[]", json.dumps({"decoder": {"type": "ByteLevel"}}), "{}"]
)
def test_unreadable_file_is_named(content, tmp_path):
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=r"tokenizer\.json"):
        Tokenizer.load(path)


def _edited(path, *place, value):
    document = json.loads(path.read_text(encoding="utf-8"))
    target = document
    for key in place[:-1]:
        target = target[key]
    target[place[-1]] = value
    path.write_text(json.dumps(document), encoding="utf-8")


OTHER_SHAPES = {
    "normalizer that aborts": (
        ["normalizer"],
        {"type": "Precompiled", "precompiled_charsmap": "//"},
    ),
    "normalizer that grows": (["normalizer"], {"type": "Replace", "pattern": {"String": ""}}),
    "prepended text": (["normalizer"], {"type": "Prepend", "prepend": "a" * 1000}),
    "slow pattern": (["pre_tokenizer", "pretokenizers", 0, "pattern", "Regex"], "(a+)+$"),
    "prefix space": (["pre_tokenizer", "pretokenizers", 1, "add_prefix_space"], True),
    "no split": (["pre_tokenizer"], None),
    "added null": (["added_tokens"], [None]),
    "added number": (["added_tokens"], 7),
    "added without id": (["added_tokens"], [{"content": "<x>", "special": True}]),
    "added far away": (["added_tokens"], [{"id": 10**9, "content": "<x>", "special": True}]),
    "dropout": (["model", "dropout"], 0.5),
    "other model": (["model", "type"], "Unigram"),
    "no vocabulary": (["model", "vocab"], None),
    "negative id": (["model", "vocab", "!"], -5),
    "letters without bytes": (["model", "vocab", "図"], 3),
    "merge of nothing": (["model", "merges"], [["q", "zzz"]]),
    "decoder": (["decoder", "type"], "WordPiece"),
}


@pytest.mark.parametrize("name", OTHER_SHAPES)
def test_only_the_published_shape_is_read(name, tmp_path):
    shutil.copyfile(ROOT / "export/pocket/tokenizer.json", path := tmp_path / "tokenizer.json")
    place, value = OTHER_SHAPES[name]
    _edited(path, *place, value=value)
    with pytest.raises(InputError, match=r"tokenizer\.json .*; export the bundle again\.$"):
        Tokenizer.load(path)


IGNORED = {
    "padding": (["padding"], {"strategy": {"Fixed": 10**9}, "pad_id": 0, "pad_token": "!"}),
    "truncation": (["truncation"], {"max_length": 1, "stride": 5, "strategy": "LongestFirst"}),
    "post_processor": (["post_processor"], {"type": "BertProcessing", "sep": ["!", 0]}),
}


@pytest.mark.parametrize("name", IGNORED)
def test_what_does_not_belong_to_the_shape_changes_nothing(name, tmp_path):
    shutil.copyfile(ROOT / "export/pocket/tokenizer.json", path := tmp_path / "tokenizer.json")
    expected = Tokenizer.load(path).encode_text("the picture, please")
    place, value = IGNORED[name]
    _edited(path, *place, value=value)
    assert Tokenizer.load(path).encode_text("the picture, please") == expected


def test_python_and_swift_cut_text_by_one_pattern():
    (path,) = (ROOT / "ios_bridge/Sources").rglob("WordSplitter.swift")
    pieces = re.findall(r'#"(.+)"#', path.read_text(encoding="utf-8"))
    assert "".join(pieces[:2]) == WORD_PATTERN
