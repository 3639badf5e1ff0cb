"""Write nights as TensorBoard's files.

TensorBoard shows each folder as a run. So the folder of a night has the nights before it as well,
and the newest night's folder alone shows every curve:
`tensorboard --logdir NIGHTS/DATE-ID/tensorboard`.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, time
from pathlib import Path

from iak.pipeline.files import putting_folder
from iak.pipeline.tracking.night_numbers import night_numbers
from iak.schemas.night import NightRecord

FOLDER = "tensorboard"


def write_tensorboard(record: NightRecord, earlier: Sequence[NightRecord], folder: Path) -> Path:
    """Replace TensorBoard's folder of a night, and return its path.

    Args:
        record: the night.
        earlier: the nights before it that the curves show, oldest first. May be empty.
        folder: of the night; it exists.
    """
    # It imports protobuf, which only nights with this setting need.
    from tensorboardX import SummaryWriter

    path = folder / FOLDER
    with putting_folder(path) as part, SummaryWriter(logdir=str(part)) as writer:
        for night in (*earlier, record):
            midnight = datetime.combine(night.night, time(), UTC).timestamp()
            for name, value in night_numbers(night).items():
                # The step is the day's number. It is the same in every folder, and a night that is
                # missing is a gap.
                writer.add_scalar(name, value, night.night.toordinal(), walltime=midnight)
    return path
