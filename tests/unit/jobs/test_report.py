"""`iak report RUN`: where the page lies is said; a folder without a record is refused."""

import pytest

from iak.jobs import report
from iak.pipeline.errors import PipelineError
from iak.pipeline.report.nights import write_night
from iak.schemas.job import ReportSpec
from tests.nights import a_night


def test_the_page_of_a_night_is_made_again(tmp_path, capsys):
    folder = tmp_path / "night"
    folder.mkdir()
    write_night(a_night(domains=2), folder)
    assert report.main(ReportSpec(path=folder)) == 0
    assert (folder / "page.html").is_file()
    assert str(folder / "page.html") in "".join(capsys.readouterr().out.split("\n"))


def test_a_folder_without_a_record_is_refused(tmp_path):
    with pytest.raises(PipelineError, match=str(tmp_path.name)):
        report.main(ReportSpec(path=tmp_path))
    assert list(tmp_path.iterdir()) == []
