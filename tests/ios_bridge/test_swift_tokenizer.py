"""The Swift tokenizer against the `tokenizers` library, in bulk."""

import json
import random
import resource
import sys
import unicodedata

import pytest
from tokenizers import Tokenizer as Library
from tokenizers import normalizers

from mobile_runtime.chat.tokenizer import StreamDecoder, Tokenizer
from tests.ios_bridge.texts import SPECIAL, broken_lines, mixed_texts, source_lines

TOKENIZERS = ("pocket_tokenizer", "published_tokenizer")


def encode_lines(minicpmv, path, lines):
    """Token ids of each line of bytes, by the Swift command."""
    output = minicpmv("tokenize", path, "--lines", given=b"".join(line + b"\n" for line in lines))
    return [list(map(int, ids.split())) for ids in output.decode().splitlines()]


def encode_texts(minicpmv, path, texts):
    """Token ids of each text, by the Swift command."""
    given = "".join(json.dumps(text, ensure_ascii=False) + "\n" for text in texts).encode()
    output = minicpmv("tokenize", path, "--json", given=given)
    return [list(map(int, ids.split())) for ids in output.decode().splitlines()]


def differences(texts, found, tokenizer):
    """Texts whose ids differ from the Python runtime's."""
    assert len(found) == len(texts)
    pairs = zip(texts, found, strict=True)
    return [text for text, ids in pairs if ids != tokenizer.encode_text(text)]


@pytest.mark.parametrize("which", TOKENIZERS)
def test_lines_of_bytes_have_the_ids_of_the_library(which, minicpmv, request):
    path = request.getfixturevalue(which)
    sources = source_lines()[:20000]
    lines = [text.encode() for text in sources] + broken_lines(6000)
    assert len(lines) >= 20000
    texts = [line.decode("utf-8", errors="replace") for line in lines]
    assert sum("\ufffd" in text for text in texts) > 2000
    found = encode_lines(minicpmv, path, lines)
    assert differences(texts, found, Tokenizer.load(path)) == []


@pytest.mark.parametrize("which", TOKENIZERS)
def test_mixed_texts_have_the_ids_of_the_library(which, minicpmv, request):
    path = request.getfixturevalue(which)
    texts = mixed_texts(20000, seed=2)
    found = encode_texts(minicpmv, path, texts)
    assert differences(texts, found, Tokenizer.load(path)) == []


def test_special_tokens_in_text_stay_letters(minicpmv, published_tokenizer):
    library = Library.from_file(str(published_tokenizer))
    added = set(library.get_added_tokens_decoder())
    rng = random.Random(3)
    texts = ["".join(rng.choices(SPECIAL, k=rng.randint(1, 6))) for _ in range(500)]
    for ids in encode_texts(minicpmv, published_tokenizer, texts):
        assert ids and not added & set(ids)


@pytest.mark.parametrize("which", TOKENIZERS)
def test_every_character_alone_and_in_a_word(which, minicpmv, request):
    path = request.getfixturevalue(which)
    assigned = (*range(0xD800), *range(0xE000, 0x34000), *range(0xE0000, 0xE0200))
    scalars = [chr(n) for n in (*assigned, *range(0x34000, 0x110000, 61))]
    # One text a block: a letter, a symbol, a space and an apostrophe beside each character.
    texts = [
        "".join(f"a{c}b {c}!{c} '{c}" for c in scalars[start : start + 256])
        for start in range(0, len(scalars), 256)
    ]
    found = encode_texts(minicpmv, path, texts)
    assert differences(texts, found, Tokenizer.load(path)) == []


def test_normal_form_is_that_of_the_library(minicpmv, published_tokenizer):
    """Every character that form C may touch, before and after every kind of neighbour."""
    compose = normalizers.NFC().normalize_str
    touched = [
        chr(n)
        for n in range(sys.maxunicode + 1)
        if not 0xD800 <= n < 0xE000
        and (unicodedata.combining(chr(n)) or unicodedata.decomposition(chr(n)))
    ]
    rng = random.Random(4)
    texts = ["a" + "".join(rng.choices(touched, k=rng.randint(1, 6))) for _ in range(20000)]
    texts += [f"{c}\u0323{c}\u0301{c}" for c in touched]
    texts += ["".join(rng.choices("ᄀᄒ가각ᅡᅵᆨᆧᇂ힣\u0301", k=5)) for _ in range(500)]
    found = encode_texts(minicpmv, published_tokenizer, texts)
    decode = Tokenizer.load(published_tokenizer).decode
    wrong = [t for t, ids in zip(texts, found, strict=True) if decode(ids) != compose(t)]
    assert wrong == []


@pytest.mark.parametrize("which", TOKENIZERS)
@pytest.mark.parametrize("skip_special", [True, False])
def test_streams_yield_the_pieces_of_the_python_runtime(which, skip_special, minicpmv, request):
    path = request.getfixturevalue(which)
    tokenizer = Tokenizer.load(path)
    rng = random.Random(5)
    ids = [rng.choices(range(tokenizer.vocab_size + 9), k=rng.randint(0, 30)) for _ in range(3000)]
    ids += [tokenizer.encode_text(text) for text in mixed_texts(1000, seed=6)]
    given = "".join(" ".join(map(str, line)) + "\n" for line in ids).encode()
    flags = [] if skip_special else ["--keep-special"]
    output = minicpmv("detokenize", path, *flags, given=given).decode()
    for line, found in zip(ids, output.split("\n"), strict=False):
        stream = StreamDecoder(tokenizer, skip_special)
        assert json.loads(found) == [*map(stream.push, line), stream.flush()]


def _seconds(run):
    """Processor time of the commands that `run` starts: other work on the machine is no matter."""
    begin = resource.getrusage(resource.RUSAGE_CHILDREN)
    run()
    end = resource.getrusage(resource.RUSAGE_CHILDREN)
    return end.ru_utime + end.ru_stime - begin.ru_utime - begin.ru_stime


def test_a_megabyte_takes_less_than_a_second(minicpmv, published_tokenizer):
    text = "\n".join(source_lines() + mixed_texts(20000, seed=7)).encode()[: 4 << 20]
    loading = _seconds(lambda: minicpmv("tokenize", published_tokenizer, given=b"a"))
    both = _seconds(lambda: minicpmv("tokenize", published_tokenizer, given=text))
    print(f"loaded in {loading:.2f} s, {len(text) / 1e6:.1f} MB in {both - loading:.2f} s")
    assert len(text) / 1e6 > both - loading


def test_a_long_word_takes_time_in_proportion(minicpmv, pocket_tokenizer):
    texts = ["abcdefgh" * 50_000]
    found = []
    seconds = _seconds(lambda: found.extend(encode_texts(minicpmv, pocket_tokenizer, texts)))
    assert seconds < 5
    assert [Tokenizer.load(pocket_tokenizer).decode(ids) for ids in found] == texts


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        (lambda value: value.update(decoder={"type": "WordPiece"}), "byte-level"),
        (lambda value: value.update(normalizer={"type": "NFKC"}), "NFC"),
        (lambda value: value.update(pre_tokenizer={"type": "Whitespace"}), "Qwen2"),
        (lambda value: value["model"].update(unk_token="<unk>"), "plain BPE: unk_token"),
        (lambda value: value["model"]["merges"].append(["Ġ", "nonsense"]), "merge number"),
        (lambda value: value["added_tokens"][0].pop("special"), "added token"),
    ],
)
def test_a_tokenizer_of_another_kind_is_refused(edit, match, minicpmv, pocket_tokenizer, tmp_path):
    value = json.loads(pocket_tokenizer.read_text(encoding="utf-8"))
    edit(value)
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(value))
    done = minicpmv("tokenize", path, given=b"a", check=False)
    assert done.returncode == 2
    assert match in done.stderr.decode() and "tokenizer.json" in done.stderr.decode()


@pytest.mark.parametrize(
    "content", [None, "", "{", "[]", "{}", '{"decoder": {"type": "ByteLevel"}}']
)
def test_an_unreadable_file_is_named(content, minicpmv, tmp_path):
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_text(content)
    done = minicpmv("tokenize", path, given=b"a", check=False)
    assert done.returncode == 2
    assert "tokenizer.json" in done.stderr.decode()
