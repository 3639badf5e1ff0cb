import re
import tomllib
from pathlib import Path

from iak.schemas.log import Catalog

README = Path(__file__).parents[3] / "README.md"


def test_the_catalogue_that_the_readme_shows_is_one():
    shown = re.search(r"```toml\n(.*?)```", README.read_text(), re.DOTALL)
    assert shown is not None
    catalog = Catalog.model_validate(tomllib.loads(shown.group(1)))
    assert catalog.tasks[1].entire_space_title == "ctcvr"
    assert catalog.tasks[1].matures_after is not None
