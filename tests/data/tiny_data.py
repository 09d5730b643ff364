"""Small data sets on disk, with whatever fault a test wants."""

import json
import pathlib
from typing import Any

import numpy as np

from anchors_jax.data import images
from anchors_jax.data.records import Example


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth colours, so that JPEG and resizing hardly change them."""
    rng = np.random.default_rng(seed)
    corner = rng.integers(0, 200, 3)
    y, x = np.linspace(0, 50, height)[:, None], np.linspace(0, 50, width)
    return (corner + (0.5 * y + 0.5 * x)[:, :, None]).astype(np.uint8)


def write_image(path: pathlib.Path, height: int, width: int, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(images.encode_jpeg(picture(height, width, seed)))


def coco_content() -> dict[str, Any]:
    """Three images (the last without objects), category ids with holes and out of order."""
    return {
        "images": [
            {"id": 7, "file_name": "a.jpg", "height": 40, "width": 60},
            {"id": 3, "file_name": "b.jpg", "height": 60, "width": 40},
            {"id": 90, "file_name": "c.jpg", "height": 32, "width": 32},
        ],
        "annotations": [
            annotation(11, 7, 44, [5, 6, 20, 10]),
            annotation(12, 3, 2, [1.5, 2.5, 30.25, 40.75], area=99.0),
            annotation(13, 7, 2, [30, 10, 10, 10], iscrowd=1),
        ],
        "categories": [
            {"id": 44, "name": "bottle"},
            {"id": 2, "name": "bicycle"},
            {"id": 9, "name": "boat"},
        ],
    }


def annotation(identity: int, image: int, category: int, box: list, **more: Any) -> dict[str, Any]:
    return {"id": identity, "image_id": image, "category_id": category, "bbox": box, **more}


def write_coco(folder: pathlib.Path, content: Any = None, *, pictures: bool = True) -> dict:
    """Write a COCO data set; returns the keywords of `coco` that read it."""
    content = coco_content() if content is None else content
    path = folder / "instances.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    if pictures:
        for i, image in enumerate(content["images"]):
            height, width = image.get("height", 20), image.get("width", 20)
            write_image(folder / "images" / image["file_name"], height, width, i)
    return {"annotations": path, "images": folder / "images"}


def voc_object(name: str, box: tuple | None, *, difficult: int = 0) -> str:
    keys = ("xmin", "ymin", "xmax", "ymax")
    inner = "".join(f"<{k}>{v}</{k}>" for k, v in zip(keys, box or (), strict=False))
    bounds = f"<bndbox>{inner}</bndbox>" if box is not None else ""
    part = "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>"
    return f"<object><name>{name}</name><difficult>{difficult}</difficult>{part}{bounds}</object>"


def write_voc(
    folder: pathlib.Path,
    objects: dict[str, list[str]],
    *,
    size: tuple[int, int] = (40, 60),
    said: tuple[int, int] | None = None,
    filename: str | None = None,
    split: str = "train",
) -> dict:
    """Write a VOC data set of stem -> objects; returns the keywords of `voc` that read it."""
    height, width = said or size
    for name in ("Annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for i, (stem, items) in enumerate(objects.items()):
        write_image(folder / "JPEGImages" / f"{stem}.jpg", *size, i)
        (folder / "Annotations" / f"{stem}.xml").write_text(
            f"<annotation><filename>{filename or stem + '.jpg'}</filename><size>"
            f"<width>{width}</width><height>{height}</height></size>{''.join(items)}</annotation>"
        )
    (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(objects) + "\n")
    return {"root": folder, "split": split}


def example(
    boxes: list, *, height: int = 40, width: int = 60, crowd: list | None = None
) -> Example:
    count = len(boxes)
    return Example(
        image=picture(height, width),
        image_id=5,
        file="x.jpg",
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        labels=np.arange(count, dtype=np.int32),
        crowd=np.array(crowd if crowd is not None else [False] * count, bool),
        area=np.arange(count, dtype=np.float32),
        annotation_ids=np.arange(count) + 1,
    )
