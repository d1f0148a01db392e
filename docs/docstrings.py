"""Griffe extension: the reStructuredText that docstrings hold, as the Markdown that the site is made of."""

import re
from textwrap import dedent, indent
from typing import Any

import griffe

#: The subpackage whose folder lies beside that of the package, see pyproject.toml.
_BESIDE = "datasets"


def to_markdown(text: str, scope: griffe.Object) -> str:
    """Roles, links, directives and the package's own closing words of a docstring in Markdown."""

    def directive(found: re.Match[str]) -> str:
        margin, kind, head, body = found.groups()
        if kind == "math":
            equations = [head, *re.split(r"\n\s*\n", dedent(body).strip("\n"))]
            block = "\n\n".join(f"$$\n{tex.strip()}\n$$" for tex in equations if tex.strip())
        else:
            block = f"```{head}\n{dedent(body).strip()}\n```"
        return f"\n{indent(block, margin)}\n\n"

    def reference(found: re.Match[str]) -> str:
        name = found[1].lstrip("~")
        shown = name.rpartition(".")[2] if found[1].startswith("~") else name
        first, dot, rest = name.partition(".")
        try:
            path = scope.resolve(first) + dot + rest
        except griffe.NameResolutionError:  # a full path
            path = name
        # Optional: what the site has no page for stays plain code.
        return f'<autoref identifier="{path}" optional><code>{shown}</code></autoref>'

    def several(found: re.Match[str]) -> str:
        margin, first, others, rest = found.groups()
        more = "".join(f"\n{margin}{name}: see `{first}`." for name in others.split(", ")[1:])
        return f"{margin}{first}: (and `{others[2:]}`) {rest}{more}"

    block = r"^( *)\.\. (math|code-block):: *(.*)\n((?:\1 +.*\n|\s*\n)*)"
    text = re.sub(block, directive, text + "\n", flags=re.M)
    text = re.sub(r"^( {4})(\w+)((?:, \w+)+): (.*(?:\n {5,}\S.*)*)", several, text, flags=re.M)
    text = re.sub(r":math:`([^`]+)`", r"\\(\1\\)", text)
    text = re.sub(r":\w+:`([^`]+)`", reference, text)
    text = re.sub(r"`([^`<]+?)\s+<([^>`]+)>`_", r"[\1](\2)", text)
    return re.sub(r"^(Complexity|Source): ", r"**\1:** ", text, flags=re.M)


class RestructuredText(griffe.Extension):
    """Rewrites all docstrings once the package is loaded, when names can be resolved."""

    def on_package(self, *, pkg: griffe.Module, loader: griffe.GriffeLoader, **_: Any) -> None:
        """Rewrite the docstrings of the package and everything in it, with the folder that lies beside it."""
        if pkg.name == _BESIDE:
            return
        beside = loader.load(_BESIDE)
        del loader.modules_collection[_BESIDE]
        pkg.set_member(_BESIDE, beside)
        self._rewrite(pkg)

    def _rewrite(self, item: griffe.Object) -> None:
        if item.docstring is not None:
            item.docstring.value = to_markdown(item.docstring.value, item)
        for member in item.members.values():
            if not member.is_alias:
                self._rewrite(member)
