"""MkDocs hooks: sections of the README by their headings, and equations as MathML.

Browsers render MathML themselves: no script, no fonts, and it works offline.
"""

import re
from html import unescape
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError

PRIME = "<mi>&#x02032;</mi>"
README = Path(__file__).resolve().parent.parent / "README.md"


def readme_section(heading: str) -> str:
    """What stands below a heading of the README, up to the next heading.

    Raises:
        PluginError: the README has no such heading.
    """
    parts = re.split(r"^#+ (.*)\n(?=\n)", README.read_text(encoding="utf-8"), flags=re.MULTILINE)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    if heading not in sections:
        raise PluginError(f"README.md has no section {heading!r}; it has {', '.join(sections)}.")
    return sections[heading].strip()


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put sections of the README in place of ``{{ README: heading }}``."""
    return re.sub(r"\{\{ README: (.*?) \}\}", lambda found: readme_section(found[1]), markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Turn the equations that arithmatex has marked into MathML."""

    def equation(found: re.Match[str]) -> str:
        tag, tex = found[1], unescape(found[2]).strip()[2:-2]  # without \( \) or \[ \]
        mathml = convert(tex, display="block" if tag == "div" else "inline")
        # A prime is raised by itself; as a superscript it would be too small to see.
        primed = r'<mrow>\1<mo lspace="0em" rspace="0em">′</mo></mrow>'
        mathml = re.sub(rf"<msup>(<mi>.</mi>){PRIME}</msup>", primed, mathml)
        index = r"((?:(?!<msubsup>).)*?)"
        both = rf"<msubsup>(<mi>.</mi>){index}{PRIME}</msubsup>"
        mathml = re.sub(both, rf"<msub>{primed}\2</msub>", mathml)
        return f'<{tag} class="equation">{mathml}</{tag}>'

    return re.sub(r'<(span|div) class="arithmatex">(.*?)</\1>', equation, html, flags=re.DOTALL)
