"""What is given as a picture: paths, file: URLs, data URIs, and what is not read."""

import base64
import io
from pathlib import Path
from urllib.parse import quote

import pytest
from PIL import Image

from mobile_runtime.errors import InputError
from mobile_runtime.pictures.images import load_image
from mobile_runtime.pictures.sources import locate


@pytest.mark.parametrize(
    "name", ["a.jpg", "./a.jpg", "2024-05-01T10:30.jpg", "C:\\photos\\a.jpg", "data", "a#b?c.png"]
)
def test_a_path_is_a_path(name, tmp_path):
    assert locate(name) == Path(name)
    assert locate(name, tmp_path) == tmp_path / name


@pytest.mark.parametrize(
    "url",
    ["file:///tmp/a%20b#c?.jpg", "file://localhost/tmp/a b#c?.jpg", "FILE:/tmp/a b%23c%3F.jpg"],
)
def test_a_file_url_is_a_path(url):
    assert locate(url, Path("/other")) == Path("/tmp/a b#c?.jpg")


@pytest.mark.parametrize(
    "url",
    [
        *("https://example.com/a.jpg", "HTTP://x/a", "ftp://x", "s3://b/k"),
        *("file://pictures/cat.png", "file://x]/a.png"),
    ],
)
def test_other_urls_are_not_fetched(url):
    with pytest.raises(InputError, match=f"{url} is not read, since nothing is fetched"):
        locate(url)


@pytest.fixture
def png():
    file = io.BytesIO()
    Image.new("RGB", (3, 2), (9, 8, 7)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("head", ["data:image/png;base64,", "DATA:image/png;charset=x;base64,"])
def test_a_data_uri_is_the_picture(png, head):
    encoded = base64.b64encode(png).decode()
    for text in (encoded, quote(encoded), f"{encoded[:40]}\n{encoded[40:]}"):
        assert locate(head + text) == png
    assert load_image(locate(head + encoded)).getpixel((0, 0)) == (9, 8, 7)
    assert locate("data:image/png," + quote(png)) == png


@pytest.mark.parametrize(
    ("uri", "match"),
    [
        ("data:image/png;base64,!!!!" + "A" * 10_000, "is a damaged data URI"),
        ("data:image/png;base64", "is a data URI without data"),
        ("data:" + "A" * 10_000, "is a data URI without data"),
    ],
)
def test_damaged_data_uris_are_named_briefly(uri, match):
    with pytest.raises(InputError, match=match) as raised:
        locate(uri)
    assert len(str(raised.value)) < 300


def test_what_is_in_a_data_uri_is_named_as_such():
    with pytest.raises(InputError, match="the picture in the data URI is not a picture in a known"):
        load_image(locate("data:," + quote("no picture")))
