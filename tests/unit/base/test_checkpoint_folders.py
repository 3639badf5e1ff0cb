"""Folders of checkpoints: complete ones by step, and only the newest stay."""

from iak.pipeline.base.checkpoint_folders import KEEP, complete, folder_of, put_checkpoint


def written(folder, step):
    part = folder / f".step-{step}.part"
    part.mkdir(parents=True)
    (part / "state.json").write_text(str(step))
    return part


def test_only_the_newest_checkpoints_stay(tmp_path):
    for step in (90, 100, 1_000):
        put_checkpoint(written(tmp_path, step), folder_of(tmp_path, step))
    written(tmp_path, 2_000)
    found = complete(tmp_path)
    assert found == [folder_of(tmp_path, 1_000), folder_of(tmp_path, 100)]
    assert len(found) == KEEP
    assert (found[0] / "state.json").read_text() == "1000"


def test_a_checkpoint_replaces_the_one_of_its_step(tmp_path):
    for _ in range(2):
        put_checkpoint(written(tmp_path, 5), folder_of(tmp_path, 5))
    assert complete(tmp_path) == [folder_of(tmp_path, 5)]
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000005"]
