"""The faces that printed text is drawn in, out of font packages (see pyproject.toml)."""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from PIL import ImageFont

from mobile_runtime.errors import InputError

# Package -> its faces. All are free to redistribute: Apache-2.0 or SIL OFL 1.1.
FACES: tuple[tuple[str, str], ...] = (
    ("font_roboto", "Roboto-Regular.ttf"),
    ("font_roboto", "Roboto-Bold.ttf"),
    ("font_lato", "Lato-Regular.ttf"),
    ("font_source_sans_pro", "SourceSansPro-Semibold.ttf"),
    ("font_source_serif_pro", "SourceSerifPro-Regular.ttf"),
    ("font_source_serif_pro", "SourceSerifPro-Bold.ttf"),
)


@lru_cache(maxsize=2048)
def load_face(face: int, size: int) -> ImageFont.FreeTypeFont:
    """Face number `face` of `FACES` at `size` pixels per em. Raises `InputError` if it is
    absent."""
    package, name = FACES[face]
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            f"The questions need the fonts of {package.replace('_', '-')}; "
            "run pip install -e '.[validation]'."
        )
    path = Path(next(iter(spec.submodule_search_locations))) / "files" / name
    return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)
