"""TensorBoard's files, read back by the format's own protocol buffers."""

import struct

from tensorboardX.proto.event_pb2 import Event

from iak.pipeline.tracking.night_numbers import night_numbers
from iak.pipeline.tracking.tensorboard import write_tensorboard
from tests.nights import some_nights


def scalars(folder):
    """(name, step) -> (value, time), of every file of a folder."""
    found = {}
    for path in folder.iterdir():
        data = path.read_bytes()
        at = 0
        while at < len(data):  # length, its checksum, the event, its checksum
            (length,) = struct.unpack_from("<Q", data, at)
            event = Event.FromString(data[at + 12 : at + 12 + length])
            at += 12 + length + 4
            for value in event.summary.value:
                key = value.tag, event.step
                assert key not in found
                found[key] = value.simple_value, event.wall_time
    return found


def test_the_newest_night_shows_the_curve_of_all(tmp_path):
    *earlier, record = some_nights(3, domains=2)
    found = scalars(write_tensorboard(record, earlier, tmp_path))
    assert len(found) == sum(len(night_numbers(night)) for night in (*earlier, record))
    for night in (*earlier, record):
        value, seconds = found["domain/city.shanghai/gain", night.night.toordinal()]
        assert value == struct.unpack("f", struct.pack("f", night.domains[1].verdict.gain))[0]
        assert seconds % 86_400 == 0


def test_a_night_written_again_replaces_its_files(tmp_path):
    (record,) = some_nights(1, domains=1)
    write_tensorboard(record, [], tmp_path)
    path = write_tensorboard(record.model_copy(update={"attempts": 2}), [], tmp_path)
    assert scalars(path)["night/attempts", record.night.toordinal()][0] == 2
    assert [each.name for each in tmp_path.iterdir()] == ["tensorboard"]
