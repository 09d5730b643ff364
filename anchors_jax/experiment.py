"""A config turned into the objects that it names, checked before anything is computed."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import optax
from ml_collections import ConfigDict

from anchors_jax import inference, optim, parallel, spec
from anchors_jax.data import loader
from anchors_jax.data.one_class import OneClass
from anchors_jax.data.records import Source
from anchors_jax.data.transforms import Transform
from anchors_jax.train import Plan
from anchors_jax.types import Anchors, Detector
from anchors_jax.weights import start

SPLITS = ("train", "eval")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """What one config means on this machine, built once. Data sets are opened when asked for.

    Attributes:
      config: what it was built from, for its numbers and for the record.
      detector: its functions and, for tools that look inside, its parts.
      canvases: (height, width) of the network inputs.
      transforms: of the images of each split.
      readers: what opens the data set of each split, with its keywords bound; for questions to it.
      optimizer: the update rule of `optim.create`.
      decay: (learning rate, updates) -> learning rate at each update.
    """

    config: ConfigDict
    detector: Detector
    canvases: tuple[tuple[int, int], ...]
    transforms: dict[str, tuple[Transform, ...]]
    readers: dict[str, functools.partial]
    optimizer: Callable[..., Any]
    decay: Callable[..., Any]
    _opened: dict[str, Source] = dataclasses.field(default_factory=dict, repr=False)

    @property
    def seed(self) -> int:
        return self.config.seed

    def variable_shapes(self) -> Any:
        """The detector's variables without their values: a tree of `jax.ShapeDtypeStruct`."""
        return jax.eval_shape(
            lambda key: self.detector.init(key, self.canvases[0]), jax.random.key(0)
        )

    @functools.cached_property
    def maps(self) -> tuple[tuple[tuple[int, int], ...], ...]:
        """(rows, columns) of the feature maps that the heads read, on each canvas."""
        return tuple(map(self.detector.parts.maps, self.canvases))

    def anchors(self, canvas: int, *, grid: Callable[..., Anchors] | None = None) -> Anchors:
        """All anchors on a canvas, given by its index; with `grid`, those of that one instead."""
        grid = grid or self.detector.parts.anchors
        return grid(maps=self.maps[canvas], canvas=self.canvases[canvas])

    def data(self, split: str) -> Source:
        """The data set `config.data.<split>` (train or eval) as it is; opened once."""
        if split not in self._opened:
            self._opened[split] = spec.build(self.config.data[split])
        return self._opened[split]

    def source(self, split: str) -> Source:
        """The data set of a split, as one class if the config says so.

        Raises:
          ValueError: its classes are not `config.num_classes` many.
        """
        source = self.data(split)
        if self.config.data.class_agnostic:
            source = OneClass(source)
        if len(source.classes) != self.config.num_classes:
            names = ", ".join(source.classes[:8])
            raise ValueError(
                f"config.num_classes = {self.config.num_classes}, but config.data.{split} has "
                f"{len(source.classes)} classes ({names}{', ...' * (len(source.classes) > 8)}); "
                f"set --config.num_classes={len(source.classes)} or name the classes to use"
            )
        return source

    def training_images(self, source: Source) -> int:
        """How many images of a source training takes (`data.keep_empty`, `data.min_side`)."""
        data = self.config.data
        chosen = loader.used(source, keep_empty=data.keep_empty, min_side=data.min_side)
        return int(chosen.sum())

    def train_batches(self, source: Source) -> inference.Batches:
        """Endless batches of this host's share, resumable."""
        data = self.config.data
        index, count = parallel.process()
        return inference.Batches(
            loader.train_loader(
                source,
                batch_size=parallel.check_batch(data.batch_size, what="data.batch_size"),
                canvases=self.canvases,
                transforms=self.transforms["train"],
                max_objects=data.max_objects,
                seed=self.seed,
                keep_empty=data.keep_empty,
                min_side=data.min_side,
                num_workers=data.workers,
                process_index=index,
                process_count=count,
            )
        )

    def eval_batches(self, source: Source) -> Any:
        """Every image of this host's share once, as dictionaries of arrays."""
        data = self.config.data
        index, count = parallel.process()
        return loader.eval_loader(
            source,
            batch_size=parallel.check_batch(data.eval_batch_size, what="data.eval_batch_size"),
            canvases=self.canvases,
            transforms=self.transforms["eval"],
            max_objects=data.max_objects,
            num_workers=data.workers,
            process_index=index,
            process_count=count,
        )

    def first_images(self, source: Source, count: int) -> list[dict[str, Any]]:
        """The first images of a source, one per batch, as `eval_batches` prepares them."""
        return loader.first_images(
            source,
            count,
            canvases=self.canvases,
            transforms=self.transforms["eval"],
            max_objects=self.config.data.max_objects,
        )

    def plan(self, images: int) -> Plan:
        """Steps for a training set of that many images."""
        train, batch_size = self.config.train, self.config.data.batch_size
        per_epoch = images / batch_size
        total = train.steps or math.ceil(train.epochs * per_epoch)

        def steps(every_epochs: float) -> int:
            return max(1, round(every_epochs * per_epoch)) if every_epochs else 0

        return Plan(
            total_steps=total,
            batch_size=batch_size,
            log_every=train.log_every,
            checkpoint_every=steps(train.checkpoint_every_epochs) or total,
            eval_every=steps(train.eval_every_epochs),
        )

    def learning_rate(self) -> float:
        """The config's learning rate times (images per update / reference batch)."""
        train = self.config.train
        images = self.config.data.batch_size * train.accumulate
        return train.learning_rate * images / train.reference_batch

    def schedule(self, plan: Plan) -> Callable[[Any], Any]:
        """Learning rate at each update, scaled linearly with the batch."""
        updates = math.ceil(plan.total_steps / self.config.train.accumulate)
        return self.decay(self.learning_rate(), updates)

    def schedule_of_batches(self, plan: Plan) -> Callable[[Any], Any]:
        """Learning rate at each batch, of which `train.accumulate` make an update."""
        schedule, accumulate = self.schedule(plan), self.config.train.accumulate
        return lambda batch: schedule(batch // accumulate)

    def rule(self, plan: Plan) -> Callable[[Any], optax.GradientTransformation]:
        """parameters -> the update rule."""
        train = self.config.train
        return functools.partial(
            optim.create,
            rule=self.optimizer,
            schedule=self.schedule(plan),
            clip_norm=train.clip_norm,
            accumulate=train.accumulate,
            decay_biases=train.decay_biases,
            decay_norms=train.decay_norms,
        )

    def begin(self, variables: Any) -> tuple[Any, str]:
        """Of random variables those to train, as `config.init_from` says, and a line about them.

        Raises:
          weights.reading.WeightsError: see `weights.start.begin`.
        """
        return start.begin(
            variables,
            network=self.detector.parts.model.parts,
            init_from=self.config.init_from,
            init_from_family=self.config.init_from_family,
            init_from_parts=self.config.init_from_parts,
            published=self.config.scale == "paper",
        )


def load(config: ConfigDict) -> Experiment:
    """Build what needs no data.

    Raises:
      spec.SpecError: the config names code or keywords that do not exist.
    """
    data, train = config.data, config.train
    return Experiment(
        config=config,
        detector=spec.build(config.detector),
        canvases=spec.build(data.canvases),
        transforms={split: spec.build(data[f"{split}_transforms"]) for split in SPLITS},
        readers={split: _reader(data[split]) for split in SPLITS},
        optimizer=spec.build(train.optimizer),
        decay=spec.build(train.schedule),
    )


def _reader(record: ConfigDict) -> functools.partial:
    """The function that a record calls, not called."""
    fields = dict(record.items())
    return spec.build({spec.BIND: fields.pop(spec.MAKE), **fields})
