"""The page of predict --report and explain --report: what it shows, what strangers write, in a browser."""

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from rdkit import Chem, DataStructs
from rdkit.Chem import rdFingerprintGenerator

from benchmarks.speed.predict import save
from plstm_graph.chem import mol_to_data, read_smiles
from plstm_graph.commands import contributions
from plstm_graph.commands.html_report import _column, _plots
from plstm_graph.commands.main import main
from plstm_graph.ensemble import Ensemble
from plstm_graph.models import PLSTM, CircularFingerprint
from plstm_graph.similarity import morgan_bits
from plstm_graph.task import GraphTask

TRAINED = ["CCO", "CCN", "c1ccccc1O", "CC(=O)O", "c1ccncc1C", "CCCCl"]
ROWS = ["c1ccccc1O", "CCCO", "C(C", "CC(=O)Nc1ccc(O)cc1", "", "CCCCN"]
EVIL = [
    "<script>document.title='taken'</script>",
    '"><img src=x onerror="document.title=\'taken\'">',
    "</script><b id=taken>",
    "{{7*7}}",
    "javascript:alert(1)",
    "' onmouseover='document.title=1",
    "$\\frac{</style><svg onload=alert(1)>$",
]
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def checkpoint(
    path: Path,
    targets: list[str],
    task: str = "regression",
    unit: str = "",
    reference: bool = True,
    **network,
) -> Path:
    """A network that was not trained, with a reference made up."""
    torch.manual_seed(3)
    sizes = {"hidden_channels": 16, "num_layers": 2, "out_channels": len(targets)}
    save(GraphTask(PLSTM(**sizes | network), task, target_names=targets, unit=unit), path)
    if reference:
        draws, columns = np.random.default_rng(5), 1 if task == "multiclass" else len(targets)
        classes = {"regression": None, "classification": 2, "multiclass": len(targets)}[task]
        values = [draws.normal(size=(rows, columns)) for rows in (len(TRAINED), 40)]
        if classes:
            values = [draws.integers(classes, size=part.shape) for part in values]
        train, val = (torch.tensor(part, dtype=torch.float32) for part in values)
        train[1, 0] = val[2, 0] = torch.nan
        predicted = torch.tensor(draws.random((40, len(targets))), dtype=torch.float32)
        if task == "multiclass":
            predicted = predicted.softmax(1)
        known = torch.from_numpy(morgan_bits([read_smiles(text) for text in TRAINED]))
        parts = {"val_targets": val, "val_predictions": predicted, "val_similarity": torch.rand(40)}
        parts |= {"train_smiles": TRAINED, "train_targets": train, "train_fingerprints": known}
        torch.save(torch.load(path, weights_only=True) | {"plstm_graph_reference": parts}, path)
    return path


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the command line in this process; returns exit code, standard output and error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["plstm-graph"])
        code = main(list(map(str, arguments)))
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def predict(run, tmp_path):
    """Predict for a table with a report, and return the page."""

    def call(frame: pd.DataFrame, model: Path, *more: object) -> "Page":
        frame.to_csv(tmp_path / "table.csv", index=False)
        files = ["-i", tmp_path / "table.csv", "--model-paths", model, "-o", tmp_path / "out.csv"]
        code, _, err = run("predict", *files, "--report", tmp_path / "report.html", "--overwrite", *more)
        assert code == 0, err
        return Page((tmp_path / "report.html").read_text(encoding="utf-8"))

    return call


class Page(HTMLParser):
    """A page as a browser reads it: elements with their attributes, and the text of the table's cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text, self.elements, self.rows, self.words, self.inside = text, [], [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        if tag in ("svg", "script", "style"):
            self.inside.append(tag)

    def handle_endtag(self, tag):
        if tag in self.inside:
            self.inside.remove(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data):
        if not self.inside:
            self.words += data
            if self.rows and self.rows[-1]:
                self.rows[-1][-1] += data

    def of(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def table(self) -> pd.DataFrame:
        header, *rows = [[cell.strip() for cell in row] for row in self.rows]
        width = len(header)
        return pd.DataFrame(
            [row[: width - 1] + [row[width - 1].split("\n")[0]] for row in rows], columns=header
        )


def test_the_page_shows_what_predict_writes_and_the_nearest_training_molecules(predict, tmp_path):
    model = checkpoint(tmp_path / "a.ckpt", ["logD"], unit="log units")
    page = predict(pd.DataFrame({"name": list("abcdef"), "smiles": ROWS}), model, "--interval", "0.9")
    output, table = pd.read_csv(tmp_path / "out.csv"), page.table
    assert set(output) | {"#", "nearest training molecules"} == set(table)
    assert table["smiles"].tolist() == ROWS
    assert table["name"].tolist() == list("abcdef")
    for name in ("predicted_logD", "lower_logD", "upper_logD", "nearest_similarity"):
        shown = table[name].replace("", "nan").astype(float)
        assert np.allclose(shown, output[name], atol=6e-4, equal_nan=True)
    assert table["error"].replace("", None).tolist() == output["error"].replace(np.nan, None).tolist()
    assert "2 of 6 rows have an error" in page.words
    assert "log units" in page.words
    assert "a confidence of 0.9." in page.words

    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    of = [generator.GetFingerprint(Chem.MolFromSmiles(text)) for text in (*TRAINED, "c1ccccc1O", "CCCO")]
    figures = [attributes["title"] for attributes in page.of("figure")]
    assert len(figures) == 3 * 4
    for row, first in ((0, 0), (1, 3)):
        alike = DataStructs.BulkTanimotoSimilarity(of[len(TRAINED) + row], of[: len(TRAINED)])
        best = sorted(range(len(TRAINED)), key=lambda i: -alike[i])[:3]
        assert figures[first : first + 3] == [TRAINED[i] for i in best]
        assert table["nearest training molecules"][row].startswith(f"{max(alike):.2f}")


def test_every_molecule_is_drawn_with_the_contributions_that_explain_draws(predict, run, tmp_path):
    fingerprint = CircularFingerprint(size=64, channels=8)
    model = checkpoint(tmp_path / "a.ckpt", ["first", "second"], branches=[fingerprint])
    page = predict(pd.DataFrame({"smiles": ROWS}), model)
    assert "Red atoms and bonds raise the prediction" in page.words
    explained = ["-i", tmp_path / "table.csv", "--model-paths", model, "-o", tmp_path / "folder"]
    report = tmp_path / "folder" / "report.html"
    code, _, err = run("explain", *explained, "--report", report)
    assert code == 0, err
    texts = {file.name: file.read_text() for file in (tmp_path / "folder").glob("*.svg")}
    assert len(texts) == 2 * 4
    for name, text in texts.items():
        assert text in report.read_text(), name
    assert page.table.equals(Page(report.read_text()).table)
    assert all(text in page.text for text in texts.values())
    code, _, err = run(
        "explain", *explained[:-1], tmp_path / "b", "--target", "second", "--report", tmp_path / "b.html"
    )
    assert code == 0, err
    assert "contribution to second" in (text := (tmp_path / "b.html").read_text())
    assert "contribution to first" not in text


@pytest.mark.parametrize("verb", ["predict", "explain"])
def test_pages_show_four_targets_at_most(predict, run, tmp_path, verb):
    names = list("abcdef")
    model = checkpoint(tmp_path / "a.ckpt", names)
    page = predict(pd.DataFrame({"smiles": ["CCO", "c1ccccc1O"]}), model)
    if verb == "explain":
        explained = ["-i", tmp_path / "table.csv", "--model-paths", model, "-o", tmp_path / "folder"]
        code, _, err = run("explain", *explained, "--report", tmp_path / "b.html")
        assert code == 0, err
        assert len(list((tmp_path / "folder").glob("*.svg"))) == 2 * 6
        page = Page((tmp_path / "b.html").read_text())
    drawn = [name for name in names if f"contribution to {name}" in page.text]
    assert drawn == names[:4]
    assert [name for name in names if f"{name}, measured" in page.text] == names[:4]
    assert page.table.filter(like="predicted_").columns.tolist() == [f"predicted_{name}" for name in names]


def test_networks_whose_branches_contribute_nothing_show_structures_and_say_why(
    predict, tmp_path, monkeypatch
):
    monkeypatch.delattr(CircularFingerprint, "contributions")
    fingerprint = CircularFingerprint(size=64, channels=8)
    page = predict(
        pd.DataFrame({"smiles": ROWS}), checkpoint(tmp_path / "a.ckpt", ["y"], branches=[fingerprint])
    )
    assert "CircularFingerprint has no contributions of atoms" in page.words
    assert "Red atoms" not in page.words
    assert len([button for button in page.of("button") if button.get("aria-label") == "Enlarge"]) == 4
    assert "class='atom'" not in page.text


@pytest.mark.parametrize("task", ["classification", "multiclass"])
def test_classes_have_curves_and_neighbours_their_class(predict, tmp_path, task):
    model = checkpoint(tmp_path / "a.ckpt", ["low", "mid", "high"], task)
    page = predict(pd.DataFrame({"smiles": ROWS}), model, "--interval", "0.8")
    assert "before" in page.text
    assert "calibrated" in page.text
    assert len(re.findall(r"(?:low|mid|high) \(AUC = 0\.\d\d\)", page.text)) == 3
    near = page.table["nearest training molecules"][0]
    pattern = r"1\.00\s+(low|mid|high) 0" if task == "multiclass" else r"1\.00\s+[01] [01] [01] 0"
    assert re.match(pattern, near), near
    assert "not measured" in "".join(page.table["nearest training molecules"])


def test_points_of_the_plots_are_the_validation_rows(tmp_path):
    ensemble = Ensemble([checkpoint(tmp_path / "a.ckpt", ["a", "b"])])
    svg = _plots(ensemble)
    points = [
        group.count("<use") for group in re.findall(r'<g id="line2d_\d+">(.*?)</g>\s*</g>', svg, re.DOTALL)
    ]
    assert sorted(points)[-4:] == [39, 39, 40, 40]  # one value is missing
    assert not re.search(r"#000000|http(?!://www\.w3\.org/(2000/svg|1999/xlink))", svg)
    assert svg.count("currentColor") > 20


@pytest.mark.parametrize(
    ("column", "numbers", "shown"),
    [
        (["-3.1234567", "", "12.5", "0.00012345"], True, ["-3.12", "", "12.5", "0.000123"]),
        (["123456.789", "0.5", "1e300"], True, ["123457", "0.5", "1e300"]),
        (["0012345", "20240101"], True, ["0012345", "20240101"]),
        (["nan", "inf", "0.0"], True, ["nan", "inf", "0.0"]),
        (["1.23456", "n/a"], False, ["1.23456", "n/a"]),
        ([], True, []),
        (["", ""], True, ["", ""]),
    ],
)
def test_numbers_are_rounded_and_text_is_left(column, numbers, shown):
    kind, cells = _column(column)
    assert kind == numbers
    assert [short for short, _ in cells] == shown
    assert [whole for _, whole in cells] == column


def evil_page(predict, tmp_path, *more: object) -> Page:
    labels = [f"CC |${text};$|" for text in EVIL[:2]]
    smiles = [*EVIL, *labels, "CCO"]
    frame = pd.DataFrame({"smiles": smiles} | {text: [*reversed(EVIL), "a", "b", "c"] for text in EVIL})
    model = checkpoint(tmp_path / "a.ckpt", EVIL, *more, unit=EVIL[1])
    return predict(frame, model)


@pytest.mark.parametrize("task", ["regression", "classification", "multiclass"])
def test_what_strangers_write_is_text(predict, tmp_path, task):
    """Names of columns, targets, classes and units, cells, SMILES: in table, drawings and plots."""
    page = evil_page(predict, tmp_path, task)
    scripts = page.of("script")
    assert [set(attributes) for attributes in scripts] == [{"nonce"}]
    script = page.text.partition("<script")[2].partition("</script>")[0]
    assert "taken" not in script
    assert not {"img", "iframe", "object", "embed", "link", "a", "base"} & {tag for tag, _ in page.elements}
    assert [tag for tag, _ in page.elements].count("style") <= 2  # the page's, and matplotlib's
    names = {name for _, attributes in page.elements for name in attributes}
    assert not {name for name in names if name.startswith("on")}
    addresses = [attributes.get("href") or attributes.get("xlink:href") for _, attributes in page.elements]
    assert all(address.startswith("#") for address in addresses if address)
    assert not re.search(r"url\((?!#)", page.text)
    table = page.table
    for text in EVIL:
        assert text in page.words
        assert text in table
        assert f"predicted_{text}" in table
    assert table["smiles"].tolist()[: len(EVIL)] == EVIL
    assert "{{7*7}}" in page.text
    assert "49" not in re.split(r"\s+", page.words)


def test_pages_fetch_nothing_and_run_one_script(predict, tmp_path):
    page = predict(pd.DataFrame({"smiles": ROWS}), checkpoint(tmp_path / "a.ckpt", ["y"]))
    [policy] = [meta["content"] for meta in page.of("meta") if "http-equiv" in meta]
    [script] = page.of("script")
    assert policy == f"default-src 'none'; style-src 'unsafe-inline'; script-src 'nonce-{script['nonce']}'"
    assert set(re.findall(r"https?://[^\s\"'<>]*", page.text)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    again = predict(pd.DataFrame({"smiles": ROWS}), tmp_path / "a.ckpt")
    assert again.of("script")[0]["nonce"] != script["nonce"]
    identifiers = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(set(identifiers)) == len(identifiers)


def test_long_tables_show_their_first_rows_and_say_so(predict, tmp_path, monkeypatch):
    model = checkpoint(tmp_path / "a.ckpt", ["y"], reference=False)
    monkeypatch.setattr("plstm_graph.commands.html_report.ROWS", 5)
    page = predict(pd.DataFrame({"smiles": ["CCO"] * 5}), model)
    assert "The page shows the first" not in page.words
    page = predict(pd.DataFrame({"smiles": ["CCO"] * 4 + ["CCN", "CCC"]}), model)
    assert "The page shows the first 5 rows of the table; the output has all." in page.words
    assert page.table["smiles"].tolist() == ["CCO"] * 4 + ["CCN"]
    assert len(pd.read_csv(tmp_path / "out.csv")) == 6
    assert "nearest training molecules" not in page.table  # nor a plot, without a reference
    assert "Validation rows" not in page.words
    page = predict(pd.DataFrame({"smiles": ["C" * 201, "CC"]}), model, "--max_atoms", "300")
    assert "Molecules of more than 200 atoms are not drawn." in page.words
    assert page.table["predicted_y"].replace("", None).notna().all()
    page = predict(pd.DataFrame({"smiles": ["C" * 201, "CC"]}), model, "--max_atoms", "200")
    assert "1 of 2 rows has an error." in page.words


@pytest.mark.parametrize("smiles", [[], ["C(C", ""]])
@pytest.mark.parametrize("walk_length", [0, 4])
def test_tables_without_a_readable_molecule_have_a_page(predict, tmp_path, smiles, walk_length):
    model = checkpoint(tmp_path / "a.ckpt", ["y"], walk_length=walk_length)
    page = predict(pd.DataFrame({"smiles": smiles}, dtype=str), model)
    assert len(page.rows) == 1 + len(smiles)
    assert ("2 of 2 rows have an error" in page.words) == bool(smiles)
    assert not page.of("figure")


def test_what_predict_refuses_costs_the_page_nothing(predict, tmp_path, monkeypatch):
    model, seen = checkpoint(tmp_path / "a.ckpt", ["logD"]), []

    def watched(mol):
        seen.append(mol.GetNumAtoms())
        return mol_to_data(mol)

    monkeypatch.setattr(contributions, "mol_to_data", watched)
    page = predict(pd.DataFrame({"smiles": ["C" * 60, "CCO"]}), model, "--max_atoms", "50")
    assert seen == [3]
    assert "1 of 2 rows has an error" in page.words


def test_a_resumed_run_reports_all_rows(run, predict, tmp_path, monkeypatch):
    frame, model = pd.DataFrame({"smiles": ["CCO", "CCN"] * 600}), checkpoint(tmp_path / "a.ckpt", ["y"])
    monkeypatch.setattr("plstm_graph.commands.html_report.ROWS", 6)
    whole = predict(frame, model).table
    (tmp_path / "report.html").unlink()
    (tmp_path / "out.csv").unlink()
    rows, calls = "plstm_graph.commands.results.Predictions.rows", []

    def stop(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*arguments)

    from plstm_graph.commands.results import Predictions

    original = Predictions.rows
    arguments = ["predict", "-i", tmp_path / "table.csv", "--model-paths", model, "-o", tmp_path / "out.csv"]
    arguments += ["--report", tmp_path / "report.html"]
    with monkeypatch.context() as patch:
        patch.setattr("plstm_graph.commands.sinks._COMMIT", 0.0)
        patch.setattr(rows, stop)
        assert run(*arguments)[0] == 130
    assert not (tmp_path / "report.html").exists()
    code, _, err = run(*arguments, "--resume")
    assert code == 0, err
    assert "688 rows at" in err  # the others were there
    assert Page((tmp_path / "report.html").read_text()).table.equals(whole)


@pytest.mark.parametrize(
    ("more", "part"),
    [
        (["--report", "no/where.html"], "There is no folder 'no'"),
        (["--report", "there.html"], "there.html is there already"),
        (["--report", "folder.html", "--overwrite"], "folder.html is there already"),
        (["--report", "out.csv"], "--report must end with .html"),
        (["--report", "r.html", "-i", "-"], "is for a table in a file"),
        (["--report", "r.html", "--trainer.devices", "2"], "--report is written by one process"),
        (["--report", "r.html", "--ray", "local"], "--report has no meaning with --ray"),
    ],
)
def test_reports_that_cannot_be_are_refused_before_anything_is_predicted(
    run, tmp_path, monkeypatch, more, part
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.csv").write_text("smiles\nCCO\n")
    (tmp_path / "there.html").write_text("mine")
    (tmp_path / "folder.html").mkdir()
    (tmp_path / "old").write_text("no checkpoint, which would be refused later")
    code, _, err = run("predict", "-i", "t.csv", "--model-paths", "old", "-o", "out.csv", *more)
    assert code == 2
    assert part in err
    assert err.count("\n") == 1
    assert (tmp_path / "there.html").read_text() == "mine"
    assert not list(tmp_path.glob("out.csv*"))
    if "--ray" not in more and "--trainer.devices" not in more and "--overwrite" not in more:
        code, _, err = run("explain", "-i", "t.csv", "--model-paths", "old", "-o", "x", *more)
        assert (code, part in err) == (2, True)
        assert not (tmp_path / "x").exists()


def test_overwriting_replaces_a_report_and_explain_may_write_into_its_new_folder(predict, run, tmp_path):
    model = checkpoint(tmp_path / "a.ckpt", ["y"])
    (tmp_path / "report.html").write_text("old")
    assert "smiles" in predict(pd.DataFrame({"smiles": ["CCO"]}), model).table  # with --overwrite
    files = ["-i", tmp_path / "table.csv", "--model-paths", model, "-o", tmp_path / "new.html"]
    code, _, err = run("explain", *files, "--report", tmp_path / "new.html")
    assert (code, "--report must end with .html" in err) == (2, True)
    assert not (tmp_path / "new.html").exists()


SCRIPT = """{
const seen = {}, cells = name => {
  const place = [...document.querySelectorAll("th")].findIndex(head => head.textContent.trim() === name);
  const rows = [...document.querySelectorAll("tbody tr")].filter(row => !row.hidden);
  return rows.map(row => row.cells[place].innerText.trim());
};
const heads = [...document.querySelectorAll("th")];
const click = name => heads.find(head => head.textContent === name).firstElementChild.click();
const sorted = () => heads.filter(head => head.ariaSort !== "none");
const sorts = () => sorted().map(head => head.textContent + " " + head.ariaSort);
seen.first = cells("#");
click("weight"); seen.up = cells("weight"); seen.sorts = sorts();
click("weight"); seen.down = cells("weight"); seen.again = sorts();
click("word"); seen.words = cells("word");
const field = document.querySelector("#search");
const type = text => { field.value = text; field.dispatchEvent(new Event("input")); };
type("PHENOL"); seen.found = cells("word"); seen.count = document.querySelector("#count").value;
type("c1ccccc1"); seen.smiles = cells("word");
type("contribution"); seen.none = cells("word");
type("");
click("#"); seen.back = cells("#");
const shown = () => [...document.querySelectorAll("td button")].filter(one => one.offsetParent)
  .map(one => one.querySelector("text").textContent.replace("contribution to ", ""));
seen.target = shown();
const choice = document.querySelector("#target");
choice.value = choice.options[1].value; choice.dispatchEvent(new Event("change"));
seen.other = shown();
document.querySelector("td button:not([hidden])").click();
const dialog = document.querySelector("dialog");
seen.dialog = [dialog.open, dialog.querySelectorAll("svg").length];
dialog.click(); seen.closed = dialog.open;
seen.sticky = getComputedStyle(document.querySelector("th")).position;
seen.near = document.querySelector("figure svg").getBoundingClientRect().width;
seen.background = getComputedStyle(document.body).backgroundColor;
seen.requests = performance.getEntriesByType("resource").map(one => one.name);
seen.foreign = document.querySelectorAll("img, iframe, #taken").length;
seen.title = document.title;
const words = document.createElement("pre");
words.id = "seen"; words.textContent = JSON.stringify(seen);
document.body.append(words);
}"""


def browse(page: Path, *options: str) -> dict[str, object]:
    """What the script sees in a browser that has the page open, in which nothing may go wrong."""
    text = page.read_text(encoding="utf-8")
    [nonce] = re.findall(r'<script nonce="(.*?)">', text)
    copy = page.with_name("copy.html")
    copy.write_text(
        text.replace("</html>", f'<script nonce="{nonce}">{SCRIPT}</script></html>'), encoding="utf-8"
    )
    quiet = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
    quiet += ["--disable-component-update", "--disable-sync", "--enable-logging=stderr", *options]
    command = [BROWSER, "--headless", "--no-sandbox", *quiet, f"--user-data-dir={page.parent / 'profile'}"]
    done = subprocess.run(
        [*command, "--dump-dom", copy.as_uri()], capture_output=True, text=True, timeout=120
    )
    assert "CONSOLE" not in done.stderr, done.stderr
    [found] = re.findall(r'<pre id="seen">(.*?)</pre>', done.stdout, re.DOTALL)
    parser = Page(f"<table><tr><td>{found}</td></tr></table>")
    return json.loads(parser.rows[0][0])


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on the path: make browser installs it")
def test_the_page_works_in_a_browser(predict, tmp_path):
    words, weights = ["phenol", "b10", "b9", "", "drug", "amine"], ["9.5", "10.25", "", "-3", "nan", "1e2"]
    frame = pd.DataFrame({"smiles": ROWS, "word": words, "weight": weights, EVIL[1]: EVIL[:6]})
    predict(frame, checkpoint(tmp_path / "a.ckpt", ["y", EVIL[0]]))
    seen = browse(tmp_path / "report.html", "--blink-settings=preferredColorScheme=0")
    assert seen["first"] == seen["back"] == list("012345")
    assert seen["up"] == ["-3", "9.5", "10.25", "1e2", "", "nan"]
    assert seen["down"] == ["1e2", "10.25", "9.5", "-3", "", "nan"]
    assert seen["sorts"] == ["weight ascending"]
    assert seen["again"] == ["weight descending"]
    assert seen["words"] == ["amine", "b9", "b10", "drug", "phenol", ""]
    assert (seen["found"], seen["count"]) == (["phenol"], "1 rows")
    assert seen["smiles"] == ["phenol"]
    assert seen["none"] == []  # words of the drawings are not searched
    assert seen["target"] == ["y"] * 4
    assert seen["other"] == [EVIL[0]] * 4
    assert seen["dialog"] == [True, 1]
    assert not seen["closed"]
    assert seen["sticky"] == "sticky"
    assert seen["near"] > 50
    assert seen["background"] == "rgb(18, 22, 28)"
    assert (seen["requests"], seen["foreign"]) == ([], 0)
    assert seen["title"].startswith("table.csv")
