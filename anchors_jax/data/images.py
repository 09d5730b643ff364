"""From the bytes of an image file to RGB pixels."""

import io

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from anchors_jax.data.records import DataError


def decode(
    data: bytes, *, name: str, size: tuple[int, int] | None = None
) -> UInt8[np.ndarray, "H W 3"]:
    """Decode an encoded image (JPEG, PNG and whatever OpenCV reads) to RGB.

    Pixels are taken as stored, without the rotation an EXIF tag may ask for, because annotations
    usually count stored pixels. Only if the annotated `size` (height, width) is that of the
    rotated image is the rotation applied.

    Raises:
      DataError: the bytes are not a whole image; the message has `name`.
    """
    image = _decode(data, name, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if size is not None and image.shape[:2] != tuple(size) == image.shape[1::-1]:
        turned = _decode(data, name, cv2.IMREAD_COLOR)
        if turned.shape[:2] == tuple(size):
            image = turned
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _decode(data: bytes, name: str, flags: int) -> np.ndarray:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:  # raised for zero bytes, and for sizes beyond OpenCV's limits
        image = None
    if image is None:
        raise _unreadable(data, name)
    return image


def _unreadable(data: bytes, name: str) -> DataError:
    return DataError(f"{name}: not a readable image ({len(data)} bytes; truncated or broken?)")


def size_of(data: bytes, *, name: str) -> tuple[int, int]:
    """Height and width from the header of an encoded image, without decoding the pixels."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.height, image.width
    except (OSError, ValueError):
        raise _unreadable(data, name) from None


def encode_png(image: UInt8[np.ndarray, "H W 3"]) -> bytes:
    """RGB pixels to the bytes of a PNG file."""
    return cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()


def encode_jpeg(image: UInt8[np.ndarray, "H W 3"], *, quality: int = 95) -> bytes:
    """RGB pixels to the bytes of a JPEG file; quality in 1..100."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
