"""From stored pixels to network input, on the device: batches travel as uint8."""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int, Shaped

# Channel statistics of ImageNet in 0..255, RGB (torchvision's, times 255).
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


def normalize(
    image: Shaped[Array, "B H W 3"],
    image_size: Int[Array, "B 2"],
    *,
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
    bgr: bool = False,
) -> Float[Array, "B H W 3"]:
    """Subtract the mean, divide by the deviation, and zero what lies beyond the image.

    The canvas is zero *after* normalisation, as in MMDetection and Detectron.

    Args:
      image: RGB in 0..255, of any number type.
      image_size: valid (height, width) of each image on the canvas.
      mean, std: one number per channel, in the order that the network sees.
      bgr: reverse the channels first (networks converted from Caffe).
    """
    image = image[..., ::-1] if bgr else image
    mean_c, std_c = jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32)
    normalized = (image.astype(jnp.float32) - mean_c[None, None, None]) / std_c[None, None, None]
    rows = jnp.arange(image.shape[1])[None, :, None, None] < image_size[:, 0, None, None, None]
    columns = jnp.arange(image.shape[2])[None, None, :, None] < image_size[:, 1, None, None, None]
    return jnp.where(rows & columns, normalized, 0.0)
