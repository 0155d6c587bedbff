"""What mkdocs does to a page: links to files outside of Docs/, which the site does not have, become their text."""

import re
from posixpath import dirname, join, normpath
from typing import Any


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    def text_of(link: re.Match[str]) -> str:
        outside = normpath(join(dirname(page.file.src_uri), link[2])).startswith("..")
        return link[1] if outside else link[0]

    return re.sub(r"\[([^\]]+)\]\((\.\./[^)]+)\)", text_of, markdown)
