"""Files and paths that settings name: what is not TOML, JSON or a folder is one sentence."""

import os
from pathlib import Path

import pytest

from iak.jobs import cli
from iak.jobs.path_settings import check_paths, paths_of, setting_of
from iak.pipeline.errors import BadRequest
from iak.pipeline.runs.documents import MAX_BYTES, MAX_DEPTH, read_json, read_toml
from iak.schemas.job import CheckSpec, FinetuneSpec, PretrainSpec

BROKEN = {
    "a BOM": (b"\xef\xbb\xbfa = 1\n", "byte order mark"),
    "a NUL": (b"a = 1\nb = '\0'\n", "has a NUL at byte 11"),
    "UTF-16": ("a = 1\n".encode("utf-16-le"), "has a NUL at byte 1"),
    "Latin-1": ("a = 'é'\n".encode("latin-1"), "byte 5, in line 1, is 0xe9"),
}


TOML = {
    "a bracket too few": (b"[log\n", "is not TOML"),
    "a key twice": (b"a = 1\na = 2\n", "is not TOML"),
    "text without quotes": (b"a = b\n", "Text stands in quotes"),
    "brackets without an end": (b"a = " + b"[" * 50_000, "nested deeper than"),
    "dots without an end": (b"a." * 200 + b"a = 1\n", "nested deeper than"),
    "digits without an end": (b"a = " + b"9" * 5_000 + b"\n", "is not TOML"),
    "a day that there is not": (b"a = 2026-02-30\n", "is not TOML"),
}


JSON = {
    "a bracket too few": (b'{"a": [1}', "is not JSON"),
    "a key twice": (b'{"a": 1, "a": 2}', "the key 'a' occurs twice"),
    "NaN": (b'{"a": NaN}', "NaN is not a number"),
    "nothing": (b"", "is not JSON"),
    "brackets without an end": (b"[" * 200_000, "nested deeper than"),
    "brackets within brackets": (b"[" * 40 + b"]" * 40, "nested deeper than"),
}


@pytest.mark.parametrize("name", BROKEN | TOML)
def test_a_broken_toml_file_is_one_sentence_with_its_name(tmp_path, name):
    content, told = (BROKEN | TOML)[name]
    path = tmp_path / "c.toml"
    path.write_bytes(content)
    with pytest.raises(BadRequest) as refusal:
        read_toml(path, setting="--config")
    message = str(refusal.value)
    assert message.startswith(f"--config {path} ")
    assert told in message
    assert "\n" not in message


@pytest.mark.parametrize("name", BROKEN | JSON)
def test_a_broken_json_file_is_one_sentence_with_its_name(tmp_path, name):
    content, told = (BROKEN | JSON)[name]
    path = tmp_path / "p.json"
    path.write_bytes(content)
    with pytest.raises(BadRequest) as refusal:
        read_json(path, setting="plan")
    assert str(refusal.value).startswith(f"plan {path} ")
    assert told in str(refusal.value)


def test_what_is_whole_is_read(tmp_path):
    (tmp_path / "c.toml").write_text("[a.b]\nc = 'é'\n")
    assert read_toml(tmp_path / "c.toml", setting="x") == {"a": {"b": {"c": "é"}}}
    (tmp_path / "c.json").write_text('{"a": [1, {"b": null}]}')
    assert read_json(tmp_path / "c.json", setting="x") == {"a": [1, {"b": None}]}
    deep = MAX_DEPTH - 1
    (tmp_path / "d.json").write_text("[" * deep + "1" + "]" * deep)
    read_json(tmp_path / "d.json", setting="x")


def test_what_is_no_plain_file_is_refused(tmp_path):
    large = tmp_path / "large.toml"
    with large.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    os.mkfifo(tmp_path / "pipe")
    for path, told in (
        (tmp_path, "is a folder, expected a file"),
        (tmp_path / "nope", "cannot be read: No such file"),
        (tmp_path / "pipe", "is not a plain file"),
        (large, "64 MiB; that is not a document"),
    ):
        with pytest.raises(BadRequest, match=told):
            read_toml(path, setting="--config")


def finetune(tmp_path, **changes):
    fields = {"catalog": "frappe", "data_root": "d", "run_dir": tmp_path / "r", "base": tmp_path}
    return FinetuneSpec.model_validate(fields | changes)


def test_every_path_of_a_job_says_what_it_is_for(tmp_path):
    spec = finetune(
        tmp_path,
        cache={"folder": tmp_path / "c"},
        live=tmp_path,
        placement={"plan": tmp_path / "p"},
    )
    found = {name: (role.is_folder, role.is_written) for name, _, role in paths_of(spec)}
    assert found == {
        "run_dir": (True, True),
        "base": (True, False),
        "live": (True, False),
        "placement.plan": (False, False),
        "cache.folder": (True, True),
    }


def test_paths_that_cannot_be_what_they_are_for_are_refused_by_their_setting(tmp_path):
    file, loop, dangling = tmp_path / "file", tmp_path / "loop", tmp_path / "dangling"
    file.touch()
    loop.symlink_to(loop)
    dangling.symlink_to(tmp_path / "gone")
    for changes, told in (
        ({"run_dir": file}, f"run_dir={file} is a file, expected a folder"),
        ({"run_dir": file / "below"}, f"run_dir={file / 'below'} lies below {file}"),
        ({"run_dir": dangling}, "which does not exist"),
        ({"cache": {"folder": file}}, f"cache.folder={file} is a file"),
        ({"base": tmp_path / "gone"}, "does not exist; expected a folder"),
        ({"base": file}, f"base={file} is a file, expected a folder"),
        ({"live": dangling}, f"live={dangling} is a link to {tmp_path / 'gone'}"),
        (
            {"placement": {"plan": tmp_path}},
            f"placement.plan={tmp_path} is a folder, expected a file",
        ),
        ({"base": loop}, f"base={loop}"),
        ({"run_dir": "x" * 300}, "File name too long"),
        ({"run_dir": "/".join(["x" * 100] * 60)}, "6,059 characters"),
    ):
        with pytest.raises(BadRequest) as refusal:
            check_paths(finetune(tmp_path, **changes))
        assert told in str(refusal.value)
    check_paths(finetune(tmp_path))
    check_paths(finetune(tmp_path, run_dir=tmp_path / "a" / "b" / "c"))


def test_a_folder_that_may_not_be_written_or_read_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda _path, mode: not mode & os.W_OK)
    with pytest.raises(BadRequest, match=r"run_dir=.* may not be written to by this user"):
        check_paths(finetune(tmp_path))
    monkeypatch.setattr(os, "access", lambda _path, mode: not mode & os.R_OK)
    with pytest.raises(BadRequest, match=r"base=.* may not be read by this user"):
        check_paths(finetune(tmp_path))


def test_a_folder_that_cannot_be_made_after_all_is_one_line_with_its_setting(capsys):
    if not Path("/proc/self").exists():
        pytest.skip("needs a file system that takes no folders")

    def start(_verb, spec):
        spec.run_dir.mkdir(parents=True)
        return 0

    words = ["pretrain", "catalog=frappe", "data_root=d", "run_dir=/proc/iak/run"]
    assert cli.run(words, start=start) == 1
    told = capsys.readouterr().err
    assert (
        told == "error: iak pretrain: run_dir=/proc/iak/run: /proc/iak: No such file or directory\n"
    )


def test_the_setting_of_a_file_is_the_one_whose_path_it_belongs_to(tmp_path):
    spec = PretrainSpec(
        catalog="frappe", data_root="d", run_dir=tmp_path / "r", placement={"plan": "p.json"}
    )
    assert setting_of(spec, str(tmp_path / "r" / "record.json")) == f"run_dir={tmp_path / 'r'}: "
    assert setting_of(spec, "p.json") == "placement.plan=p.json: "
    assert setting_of(spec, "/elsewhere") == ""
    assert setting_of(None, "/elsewhere") == ""


def test_memory_that_ends_on_the_driver_is_a_job_that_does_not_fit(tmp_path, capsys):
    def start(_verb, _spec):
        raise MemoryError

    words = ["pretrain", "catalog=frappe", f"data_root={tmp_path}", f"run_dir={tmp_path / 'r'}"]
    assert cli.run(words, start=start) == 3
    assert "iak pretrain ran out of memory" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", " ", "a\0b", "a\nb", "a\udcffb"])
def test_text_that_is_no_path_is_refused(text):
    for changes in ({"data_root": text}, {"json": text}, {"catalog": text}):
        with pytest.raises(ValueError, match=next(iter(changes))):
            CheckSpec.model_validate({"catalog": "frappe", "data_root": "d"} | changes)


def test_a_picture_is_of_a_kind_that_can_be_drawn():
    asked = {"catalog": "frappe", "data_root": "d"}
    assert CheckSpec.model_validate(asked | {"picture": "p.PNG"}).picture == Path("p.PNG")
    with pytest.raises(ValueError, match=r"\.png, \.svg, \.pdf, not '\.txt'"):
        CheckSpec.model_validate(asked | {"picture": "p.txt"})
