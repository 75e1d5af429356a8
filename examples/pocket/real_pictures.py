"""`python -m examples.pocket.real_pictures BUNDLE [PICTURE…]`: what a bundle says of photographs.

Asks about the pictures that scikit-image and scikit-learn ship, if these are installed, and about
those given. Nothing is scored: the answers go into the model card as they come.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

from mobile_runtime.errors import InputError
from mobile_runtime.files import write_json
from mobile_runtime.session import Session

QUESTIONS = ("What does it say?", "What do you see?")
# Package -> the folder of its pictures and their names.
_PACKAGED: dict[str, tuple[str, tuple[str, ...]]] = {
    "skimage": (
        "data",
        (
            *("page.png", "text.png", "astronaut.png", "chelsea.png", "coffee.png", "coins.png"),
            *("rocket.jpg", "camera.png", "hubble_deep_field.jpg", "retina.jpg"),
        ),
    ),
    "sklearn": ("datasets/images", ("china.jpg", "flower.jpg")),
}


def packaged_pictures() -> Iterator[Path]:
    """The pictures of installed packages, in the order of the table."""
    for package, (folder, names) in _PACKAGED.items():
        spec = find_spec(package)
        if spec is not None and spec.submodule_search_locations:
            base = Path(next(iter(spec.submodule_search_locations))) / folder
            yield from (base / name for name in names if (base / name).is_file())


def ask_about(session: Session, picture: Path) -> dict[str, str]:
    """Answers to all questions about one picture."""
    answers = {}
    for question in QUESTIONS:
        image = {"type": "image", "image": str(picture)}
        content = [image, {"type": "text", "text": question}]
        answers[question] = "".join(session.chat([{"role": "user", "content": content}])).strip()
    return answers


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the answers; 0, or 2 for a user's mistake."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.pocket.real_pictures", description=__doc__
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("pictures", type=Path, nargs="*", metavar="PICTURE")
    parser.add_argument("--json", type=Path, help="also write the answers to this file")
    options = parser.parse_args(arguments)
    try:
        session = Session.load(options.bundle)
        given = [*packaged_pictures(), *options.pictures]
        answers = {picture.name: ask_about(session, picture) for picture in given}
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for name, said in answers.items():
        print(f"{name}: {'; '.join(said.values())}")
    if options.json is not None:
        write_json(options.json, answers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
