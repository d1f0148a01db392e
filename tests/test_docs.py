"""The Python of the guide's pages, run page by page; what it asserts holds."""

import re
from pathlib import Path
from typing import Any

import pytest

GUIDE = Path(__file__).resolve().parent.parent / "docs" / "guide"


def blocks(page: Path) -> list[str]:
    """The page's blocks of Python but for those that need a run of the reader's own."""
    found = re.findall(r"^```python\n(.*?)^```", page.read_text(), flags=re.M | re.S)
    return [block for block in found if not re.search(r"\"(RUN|model)/", block)]


def test_five_lines_of_the_readme(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    readme = (GUIDE.parent.parent / "README.md").read_text()
    pattern = r"^## Training in five lines\n\n```python\n(.*?)^```"
    [example] = re.findall(pattern, readme, flags=re.M | re.S)
    assert len(list(filter(None, example.splitlines()))) == 5
    found: dict[str, Any] = {}
    exec(example, found)
    assert (found["lower"] < found["predicted"]).all()
    assert (found["predicted"] < found["upper"]).all()


PAGES = [page for page in sorted(GUIDE.glob("*.md")) if blocks(page)]


@pytest.mark.filterwarnings("ignore")  # Lightning's advice on small runs
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile("\n".join(blocks(page)), str(page), "exec"), {})
