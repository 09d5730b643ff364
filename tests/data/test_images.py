import io

import numpy as np
import pytest
from PIL import Image

from anchors_jax.data import images
from anchors_jax.data.records import DataError
from tests.data.tiny_data import picture


def _turned_by_tag(image: np.ndarray) -> bytes:
    """A JPEG whose tag asks viewers to turn it by 90 degrees."""
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", exif=exif, quality=95)
    return buffer.getvalue()


def test_orientation_follows_the_annotated_size():
    data = _turned_by_tag(picture(20, 30))
    assert images.size_of(data, name="x") == (20, 30)
    assert images.decode(data, name="x").shape == (20, 30, 3)
    assert images.decode(data, name="x", size=(20, 30)).shape == (20, 30, 3)
    assert images.decode(data, name="x", size=(30, 20)).shape == (30, 20, 3)
    assert images.decode(data, name="x", size=(5, 5)).shape == (20, 30, 3)


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "P"])
def test_every_kind_of_image_becomes_rgb(mode):
    buffer = io.BytesIO()
    kind = "JPEG" if mode in ("L", "CMYK") else "PNG"
    Image.fromarray(picture(20, 30)).convert(mode).save(buffer, kind)
    image = images.decode(buffer.getvalue(), name="x")
    assert image.shape == (20, 30, 3)
    assert image.dtype == np.uint8


def test_png_round_trip():
    image = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    np.testing.assert_array_equal(images.decode(images.encode_png(image), name="x"), image)
    assert images.size_of(images.encode_jpeg(image), name="x") == (9, 7)


@pytest.mark.parametrize("data", [b"", b"hello", b"\xff\xd8\xff"])
def test_broken_bytes_are_named(data):
    for function in (images.decode, images.size_of):
        with pytest.raises(DataError, match=r"a\.jpg: not a readable image"):
            function(data, name="a.jpg")
