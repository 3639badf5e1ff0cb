"""Read a page back: its elements, its text, and whether every tag is closed."""

from html.parser import HTMLParser

VOID = {"meta", "input", "br", "link", "img", "hr"}


class Page(HTMLParser):
    """Elements with their attributes, and the text outside style and script."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.elements, self.text = [], [], ""
        self.feed(text)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open[-1] == tag, f"</{tag}> closes <{self.open[-1]}>"
        self.open.pop()

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.text += data

    def of(self, tag, **attributes):
        """Attributes of every such element; `class_` stands for `class`."""
        return [
            found
            for name, found in self.elements
            if name == tag and all(found.get(k.strip("_")) == v for k, v in attributes.items())
        ]

    @property
    def ids(self):
        return [found["id"] for _, found in self.elements if "id" in found]


def assert_alone(text):
    """A page loads nothing, runs nothing but its own script, and leads to files beside it."""
    page = Page(text)
    loading = ("src", "srcset", "action", "data", "poster", "style")
    found = [(tag, name) for tag, each in page.elements for name in each if name in loading]
    handlers = [(tag, name) for tag, each in page.elements for name in each if name[:2] == "on"]
    assert found == handlers == []
    assert not page.of("link")
    assert len(page.of("style")) == len(page.of("script")) == 1
    for tag, each in page.elements:
        if "href" in each:
            assert each["href"].startswith(("#", "./", "../")), (tag, each)
    own = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in own
    assert "@import" not in own
    (policy,) = [each["content"] for each in page.of("meta") if each.get("http-equiv")]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
