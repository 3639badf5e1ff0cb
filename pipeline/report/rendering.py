"""Fill the templates: one HTML file that needs no other file and no network."""

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from iak.pipeline.report import wording

_TEMPLATES = Path(__file__).with_name("templates")


def render(template: str, **values: Any) -> str:  # noqa: ANN401 - whatever a template shows
    """Return a page.

    Values are escaped as text, because names of domains and messages come from the log. The page's
    Content-Security-Policy allows one style and one script, by their digests.

    Args:
        template: name of its file.
        values: values by their names in the template.
    """
    style, script = _asset("page.css"), _asset("page.js")
    return (
        _environment()
        .get_template(template)
        .render(
            style=Markup(style),
            script=Markup(script),
            policy=_policy(style, script),
            **values,
        )
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("iak.pipeline.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        name: getattr(wording, name)
        for name in (
            "count",
            "day",
            "decimal",
            "duration",
            "interval",
            "moment",
            "money",
            "percent",
            "plural",
            "short",
            "signed",
            "weekday",
        )
    }
    return environment


@cache
def _asset(name: str) -> str:
    """Return the text of the style sheet or of the script."""
    return (_TEMPLATES / name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    """Return the Content-Security-Policy: nothing is loaded, nothing else is run or sent."""
    return (
        f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"sha256-{digest}"
