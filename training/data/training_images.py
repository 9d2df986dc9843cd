"""Images as training data: found, decoded into memory if asked to, and dealt out in batches."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing

from flowmo.training.config import AnyTrainConfig
from flowmo.training.data.batches import Batch, CropDataset, batches, corrupt_error, decode_all
from flowmo.training.data.index import ImageIndex
from flowmo.training.errors import DataError

Report = Callable[[str], None]


class TrainingImages:
    """Square crops of a run's images by position.

    Args:
        config: The run.
        size: The side of the crops in pixels.
        report: Is notified of what takes long.

    Attributes:
        index: The images.
        period: The number of positions after which the samples repeat; None for never.

    Raises:
        DataError: There is no image, or a path does not exist.
    """

    def __init__(self, config: AnyTrainConfig, *, size: int, report: Report) -> None:
        if not config.data.paths:
            raise DataError(
                "no training images were given: name a folder, tar or pattern with --data, such as "
                "`flowmo train finetune --data photos/`, or set data.paths"
            )
        self._config, self._size = config, size
        self.index = ImageIndex(config.data.paths, cache=config.data.index_cache, report=report)
        self.period: int | None = None
        self._dataset: CropDataset | None = None

    def __len__(self) -> int:
        return len(self.index)

    def load(self, report: Report) -> None:
        """Decode all images into memory, if ``data.cache`` says so.

        Raises:
            DataError: They need more than ``data.cache_limit_gib``.
        """
        decoded = None
        if self._config.data.cache == "memory":
            report(f"decoding {len(self)} images into memory")
            decoded = decode_all(self.index, size=self._size, config=self._config.data)
        self._dataset = CropDataset(
            self.index,
            size=self._size,
            config=self._config.data,
            seed=self._config.seed,
            decoded=decoded,
        )

    def batches(
        self, *, start: int, steps: int, part: tuple[int, int], pin: bool
    ) -> AbstractContextManager[Iterator[Batch]]:
        """The batches of ``steps`` steps; :class:`flowmo.training.tasks.task.TrainingData`."""
        assert self._dataset is not None, "load() comes first"
        loader = batches(
            self._dataset,
            start=start,
            steps=steps,
            batch_size=self._config.batch_size,
            workers=self._config.data.workers,
            pin=pin,
            period=self.period,
            part=part,
        )
        return closing(iter(loader))  # which ends the worker processes, whatever ends the loop

    def name(self, index: int) -> str:
        """Where an image is, for messages."""
        return self.index.name(index)

    def check_unreadable(self, known: Sequence[int]) -> None:
        """Bear up to ``data.max_corrupt`` unreadable images.

        Raises:
            DataError: There are more.
        """
        if len(known) > self._config.data.max_corrupt:
            raise corrupt_error(self.index, list(known), self._config.data)

    def close(self) -> None:
        """Close the archives that reads have opened."""
        self.index.close()
