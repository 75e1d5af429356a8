"""Kinds of damage. Each draws a case, JSON that says what to do, and runs it to an exit code.

0: it worked, 2: refused in a sentence. `must_refuse`: 0 would be wrong bytes taken for right ones.
"""

import json
import random
import sys
from dataclasses import dataclass
from functools import partial

import onnx

from export.cli import main as export
from mobile_runtime.cli import main as chat_main
from mobile_runtime.errors import InputError
from mobile_runtime.mlprogram.schema import Model
from mobile_runtime.session import Session
from tests.fuzz.base import (
    BUNDLES,
    CHAT,
    FILMS,
    PICTURES,
    copy_of,
    export_to,
    files_of,
    join_safetensors,
    replace_file,
    seal,
    split_safetensors,
)
from tests.fuzz.edits import (
    draw_bytes,
    draw_json,
    draw_message,
    edit_bytes,
    edit_json,
    edit_message,
)
from tests.fuzz.packages import GIVEN, predict

WRONG = 71  # exit code of other bytes where the same were due


@dataclass(frozen=True)
class Kind:
    """`draw(rng, base)` gives a case, `run(case, base, folder)` an exit code."""

    draw: object
    run: object
    must_refuse: bool = False


def chat(bundle, base, *options):
    """Exit code of a short answer about a picture."""
    picture = (
        () if "--image" in options or "--video" in options else ("--image", base / "pictures/png")
    )
    arguments = ["chat", bundle, *CHAT, *picture, *options]
    return chat_main([str(argument) for argument in arguments])


def _bundle_case(rng, base):
    name = rng.choice(sorted(BUNDLES))
    return name, base / "bundles" / name


def _draw_bundle_bytes(rng, base):
    name, bundle = _bundle_case(rng, base)
    return [name, rng.choice(files_of(bundle)), draw_bytes(rng)]


def _run_bundle_bytes(case, base, folder):
    name, file, edit = case
    bundle = copy_of(base / "bundles" / name, folder / "bundle")
    before = (bundle / file).read_bytes()
    replace_file(bundle / file, edit_bytes(before, edit))
    if (bundle / file).read_bytes() == before:
        return 2
    return min(chat_main(["info", str(bundle)]), chat(bundle, base))


def _draw_manifest_bits(rng, base):
    name, _ = _bundle_case(rng, base)
    return [name, "manifest.json", ["flip", rng.random(), rng.randrange(8)]]


def _draw_manifest_fields(rng, base):
    name, bundle = _bundle_case(rng, base)
    manifest = json.loads((bundle / "manifest.json").read_bytes())
    return [name, draw_json(rng, manifest)]


def _run_manifest_fields(case, base, folder):
    name, edit = case
    bundle = copy_of(base / "bundles" / name, folder / "bundle")
    changed = edit_json((bundle / "manifest.json").read_bytes(), edit)
    try:
        seal(bundle, changed)
    except (ValueError, RecursionError):
        replace_file(bundle / "manifest.json", changed)
    return max(chat_main(["info", str(bundle)]), chat(bundle, base))


def _draw_program(rng, base):
    name = rng.choice(("state", "io"))
    bundle = base / "bundles" / name
    file = rng.choice([f for f in files_of(bundle) if ".mlpackage/" in f])
    if file.endswith("model.mlmodel") and rng.random() < 0.9:
        model = Model.FromString((bundle / file).read_bytes())
        return [name, file, [draw_message(rng, model) for _ in range(rng.choice((1, 1, 3)))]]
    return [name, file, draw_bytes(rng)]


def _run_program(case, base, folder):
    return _run_graph(case, base, folder, Model)


def _run_graph(case, base, folder, message):
    name, file, edits = case
    bundle = copy_of(base / "bundles" / name, folder / "bundle")
    data = (bundle / file).read_bytes()
    if isinstance(edits[0], str):
        data = edit_bytes(data, edits)
    else:
        model = message.FromString(data)
        _edit(model, edits)
        data = model.SerializeToString()
    replace_file(bundle / file, data)
    seal(bundle)
    return chat(bundle, base)


_MODEL = "Data/com.apple.CoreML/model.mlmodel"


def _draw_description(rng, base):
    name = rng.choice(sorted(GIVEN))
    data = (base / f"packages/{name}.mlpackage" / _MODEL).read_bytes()
    description = Model.FromString(data).description
    return [name, [draw_message(rng, description) for _ in range(rng.choice((1, 1, 3)))]]


def _run_description(case, base, folder):
    name, edits = case
    package = copy_of(base / f"packages/{name}.mlpackage", folder / "given.mlpackage")
    model = Model.FromString((package / _MODEL).read_bytes())
    _edit(model.description, edits)
    replace_file(package / _MODEL, model.SerializeToString())
    told = [chat_main(["describe", str(package), *more]) for more in ([], ["--json"])]
    error = predict(package, name)
    return max(*told, 0 if error is None else _refused(error))


def _edit(message, edits):
    for edit in edits:
        try:
            edit_message(message, edit)
        except (KeyError, IndexError, AttributeError, TypeError):
            continue  # a later edit of what an earlier one removed


def _draw_onnx(rng, base):
    name = rng.choice(("onnx", "portable"))
    bundle = base / "bundles" / name
    used = ("vision_encoder", "resampler", "embed_tokens", "decoder_model_merged")
    file = rng.choice([f for f in files_of(bundle) if f.split(".")[0] in used])
    if file.endswith(".onnx") and rng.random() < 0.9:
        model = onnx.ModelProto.FromString((bundle / file).read_bytes())
        return [name, file, [draw_message(rng, model) for _ in range(rng.choice((1, 1, 3)))]]
    return [name, file, draw_bytes(rng)]


def _run_onnx(case, base, folder):
    return _run_graph(case, base, folder, onnx.ModelProto)


def _draw_tokenizer(rng, base):
    name = rng.choice(("state", "onnx"))
    value = json.loads((base / "bundles" / name / "tokenizer/tokenizer.json").read_bytes())
    if rng.random() < 0.5:  # most of the file is vocabulary
        value["model"] |= {"vocab": {}, "merges": []}
    return [name, draw_json(rng, value)]


def _run_tokenizer(case, base, folder):
    name, edit = case
    bundle = copy_of(base / "bundles" / name, folder / "bundle")
    path = bundle / "tokenizer/tokenizer.json"
    replace_file(path, edit_json(path.read_bytes(), edit))
    seal(bundle)
    return chat(bundle, base)


def _draw_checkpoint(rng, base):
    file = rng.choice(files_of(base / "checkpoint"))
    data = (base / "checkpoint" / file).read_bytes()
    if file.endswith(".json"):
        return [file, draw_json(rng, json.loads(data))]
    header = split_safetensors(data)[0]
    return [file, draw_json(rng, json.loads(header)) if rng.random() < 0.7 else draw_bytes(rng)]


def _run_checkpoint(case, base, folder):
    file, edit = case
    checkpoint = copy_of(base / "checkpoint", folder / "checkpoint")
    data = (checkpoint / file).read_bytes()
    if file.endswith(".json"):
        data = edit_json(data, edit)
    elif edit[0] in ("set", "delete", "copy", "nest", "digits"):
        header, rest = split_safetensors(data)
        data = join_safetensors(edit_json(header, edit), rest)
    else:
        data = edit_bytes(data, edit)
    replace_file(checkpoint / file, data)
    planned = export(["onnx", "--checkpoint", str(checkpoint), "--plan", "--quant", "none"])
    return planned or export_to(folder / "bundle", checkpoint, "onnx", folder / "cache")


def _draw_media(kinds, rng, base):
    return [rng.choice(kinds), [draw_bytes(rng) for _ in range(rng.choice((1, 1, 2, 8)))]]


def _run_media(room, option, case, base, folder):
    kind, edits = case
    data = (base / room / kind).read_bytes()
    for edit in edits:
        data = edit_bytes(data, edit)
    path = folder / f"given.{kind}"
    path.write_bytes(data)
    return chat(base / "bundles/onnx", base, option, path)


_PICTURE, _FILM = "pictures/png", "films/mp4"


def _draw_messages(rng, base):
    parts = [
        {"type": "image", "image": _PICTURE, "max_slice_nums": 2},
        {"type": "video", "video": _FILM, "fps": 2, "max_frames": 4, "packing": 2},
        {"type": "text", "text": "What is <ref>this</ref>? <image> \u202e\0"},
        {"type": "image_url", "url": "data:image/png;base64,AAAA"},
    ]
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": rng.sample(parts, rng.randrange(1, 4))},
        {"role": "assistant", "content": "<box>1 2 3 4</box>"},
        {"role": "user", "content": "And now?"},
    ]
    case = [messages]
    for _ in range(rng.choice((1, 1, 2))):
        edit = draw_json(rng, messages)
        if edit[0] in ("set", "delete", "copy"):
            case.append(edit)
    return case


def _run_messages(case, base, folder):
    messages, *edits = case
    data = json.dumps(messages).encode()
    for edit in edits:
        data = edit_json(data, edit)
    session = Session.load(base / "bundles/onnx")
    try:
        session.prepare(json.loads(data), folder=base)
    except InputError as error:
        raise SystemExit(_refused(error)) from None
    return 0


def _refused(error):
    print(f"error: {error}", file=sys.stderr)
    return 2


def _draw_cache(rng, base):
    files = [f for f in files_of(base / "cache") if f.startswith("entries/")]
    entries = [f for f in files if f.endswith("entry.json")]
    file = rng.choice(entries if rng.random() < 0.6 else files)
    if file.endswith("entry.json") and rng.random() < 0.5:
        return [file, draw_json(rng, json.loads((base / "cache" / file).read_bytes()))]
    return [file, draw_bytes(rng)]


def _run_cache(case, base, folder):
    file, edit = case
    cache = copy_of(base / "cache", folder / "cache")
    if (cache / file).is_file():
        replace_file(cache / file, edit_json((cache / file).read_bytes(), edit))
    code = export_to(folder / "state", base / "checkpoint", "state", cache)
    if code:
        return code
    right = base / "bundles/state"
    same = all(
        (right / f).read_bytes() == (folder / "state" / f).read_bytes() for f in files_of(right)
    )
    return 0 if same else WRONG


def _draw_prepacked(rng, base):
    return [rng.choice(files_of(base / "prepacked")), draw_bytes(rng)]


def _draw_bit(folder, rng, base):
    files = [file for file in files_of(base / folder) if not file.startswith("partial/")]
    return [rng.choice(files), ["flip", rng.random(), rng.randrange(8)]]


def _run_prepacked(case, base, folder):
    file, edit = case
    packed = copy_of(base / "prepacked", folder / "prepacked")
    before = (packed / file).read_bytes()
    replace_file(packed / file, edit_bytes(before, edit))
    if (packed / file).read_bytes() == before:
        return 2
    return chat(base / "bundles/onnx", base, "--prepacked", packed)


KINDS = {
    "bundle-bytes": Kind(_draw_bundle_bytes, _run_bundle_bytes, must_refuse=True),
    "manifest-bits": Kind(_draw_manifest_bits, _run_bundle_bytes, must_refuse=True),
    "manifest-fields": Kind(_draw_manifest_fields, _run_manifest_fields),
    "program": Kind(_draw_program, _run_program),
    "description": Kind(_draw_description, _run_description),
    "tokenizer": Kind(_draw_tokenizer, _run_tokenizer),
    "onnx": Kind(_draw_onnx, _run_onnx),
    "checkpoint": Kind(_draw_checkpoint, _run_checkpoint),
    "pictures": Kind(partial(_draw_media, PICTURES), partial(_run_media, "pictures", "--image")),
    "films": Kind(partial(_draw_media, FILMS), partial(_run_media, "films", "--video")),
    "messages": Kind(_draw_messages, _run_messages),
    "cache": Kind(_draw_cache, _run_cache),
    "cache-bits": Kind(partial(_draw_bit, "cache"), _run_cache),
    "prepacked": Kind(_draw_prepacked, _run_prepacked, must_refuse=True),
    "prepacked-bits": Kind(partial(_draw_bit, "prepacked"), _run_prepacked, must_refuse=True),
}


def draw(kind, seed, base):
    """The case number `seed` of a kind."""
    return KINDS[kind].draw(random.Random(f"{kind} {seed}"), base)
