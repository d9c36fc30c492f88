"""What the tables of the harmonizing paper are run on at the small scales: images, start, network, lengths.

The paper starts from ImageNet weights. Their stand-in here is a ResNet-18 of our own, trained once on CIFAR-10 and
shared by all tables as their first cell. Of the five classes of the photographs, cat and car (automobile) are classes
of CIFAR-10, where truck is near to bus; person and train are not in it.
"""

from pathlib import Path

from eke.config import fingerprint
from eke.errors import DataError
from eke.tasks.grid_cells import Cell, Train
from eke.tasks.grid_data import TableData, hash_file

MODEL = "torchvision/resnet18"
START_SIZE = 64
"""Pixels to which CIFAR-10 is enlarged, so that the stride of 32 leaves a map."""


def cifar_start(data: Path) -> Cell:
    """Return the stand-in for ImageNet: 1,500 supervised steps of 64 of the 50,000 labeled images of CIFAR-10.

    Raises:
        DataError: the images are missing.
    """
    files = {part: data / f"cifar10-{part}.parquet" for part in ("train", "test")}
    for file in files.values():
        if not file.is_file():
            raise DataError(f"{data} has no {file.name}, from which the stand-in for ImageNet is trained.")
    found = TableData(
        name="cifar10",
        source=str(files["train"].absolute()),
        test=str(files["test"].absolute()),
        identity=fingerprint({part: hash_file(file) for part, file in files.items()}),
        labels={},
    )
    flags = {
        "data": {"size": START_SIZE, "val_rate": 0.0},
        "model": {"name": MODEL},
        "batch": {"labeled": 64, "mu": 1},
        "optim": {
            "name": "adamw",
            "lr": 1e-3,
            "weight_decay": 1e-4,
            "schedule": "half-cosine",
            "warmup_steps": 0,
            "ema_decay": 0.0,
        },
        "steps": 1_500,
    }
    return Cell(Train("supervised", flags), found, seed=0)
