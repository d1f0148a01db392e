"""The wheel: what it holds, and that README's example and the command line run with what it requires."""

import re
import shutil
import subprocess
import sys
import venv
from email.parser import BytesParser
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from zipfile import ZipFile

import pytest
from packaging.metadata import Metadata
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built as `make wheel` does, from a copy: a build leaves files behind."""
    folder = tmp_path_factory.mktemp("wheel")
    left_out = shutil.ignore_patterns(
        ".*", "data", "runs", "build", "dist", "site", "*.egg-info", "__pycache__"
    )
    shutil.copytree(ROOT, folder / "source", ignore=left_out)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel"]
    options = ["--no-deps", "--no-build-isolation", "--wheel-dir", folder / "dist"]
    run([*pip, *options, folder / "source"], folder)
    [path] = (folder / "dist").iterdir()
    return path


def run(command, folder):
    """Run a command in a folder and return what it prints."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def required(wheel, extra=""):
    """Distributions that the wheel requires here, with an extra, and those that they require, and so on."""
    with ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        lines = BytesParser().parsebytes(archive.read(name)).get_all("Requires-Dist")
        pending = [(line, wanted) for line in lines for wanted in {"", extra}]
    found = {}
    while pending:
        line, extra = pending.pop()
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        for wanted in ("", *requirement.extras):
            if (requirement.name, wanted) in found:
                continue
            try:
                distribution = metadata.distribution(requirement.name)
            except (
                metadata.PackageNotFoundError
            ):  # torch's CPU build names GPU packages that it does not need
                continue
            found[requirement.name, wanted] = distribution
            pending += [(line, wanted) for line in distribution.requires or []]
    return {distribution.name: distribution for distribution in found.values()}


def bare_environment(folder, wheel, extra=""):
    """A virtual environment of the wheel and links to what it requires, with an extra; its Python."""
    venv.create(folder, with_pip=False)
    [packages] = folder.glob("lib/python*/site-packages")
    for distribution in required(wheel, extra).values():
        for name in {PurePosixPath(file).parts[0] for file in distribution.files or []} - {
            "..",
            "__pycache__",
        }:
            link = packages / name
            if not link.exists():
                link.symlink_to(Path(distribution.locate_file(name)))
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check"]
    run([*pip, "install", "--no-deps", "--no-index", wheel], folder)
    return python


def test_wheel_holds_the_package_and_its_types_alone(wheel):
    with ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {PurePosixPath(name).parts[0] for name in names} == {
        "plstm_graph",
        "-".join(wheel.name.split("-")[:2]) + ".dist-info",
    }
    inside = {name for name in names if name.startswith("plstm_graph/")}
    sources = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("plstm_graph/**/*.py")}
    sources |= {f"plstm_graph/datasets/{path.name}" for path in ROOT.glob("datasets/*.py")}
    sources |= {path.relative_to(ROOT).as_posix() for path in ROOT.glob("plstm_graph/presets/**/*.yaml")}
    assert inside == sources | {"plstm_graph/py.typed", "plstm_graph/commands/report.html"}
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_metadata_are_valid(wheel):
    with ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        described = Metadata.from_email(archive.read(name), validate=True)
    assert described.description_content_type == "text/markdown"
    assert described.description == (ROOT / "README.md").read_text(encoding="utf-8")
    if find_spec("twine"):
        run([sys.executable, "-m", "twine", "check", "--strict", wheel], wheel.parent)


def test_example_of_the_readme_runs_with_the_wheel_alone(wheel, tmp_path):
    python = bare_environment(tmp_path / "venv", wheel)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    [example] = re.findall(r"^## The layer in ten lines\n\n```python\n(.*?)^```", readme, flags=re.M | re.S)
    outside = tmp_path / "elsewhere"
    outside.mkdir()
    (outside / "example.py").write_text(
        f"{example}\n"
        "import importlib, pkgutil, plstm_graph\n"
        "from importlib.util import find_spec\n"
        "for module in pkgutil.walk_packages(plstm_graph.__path__, 'plstm_graph.'):\n"
        "    rooms = ('datasets', 'commands', 'ensemble', 'reference', 'estimators')\n"
        "    if not module.name.startswith(tuple(f'plstm_graph.{room}' for room in rooms)):\n"
        "        importlib.import_module(module.name)\n"
        "print(plstm_graph.__file__, list(x.shape))\n"
        "print([name for name in ('datasets', 'datamol', 'pytest') if find_spec(name)])\n"
    )
    lines = run([python, "-I", "example.py"], outside).splitlines()
    file, shape = lines[-2].split(" ", 1)
    assert Path(file).is_relative_to(tmp_path / "venv")
    assert shape == "[15, 64]"  # ethanol, phenol, sodium acetate
    assert lines[-1] == "[]"
    command = [python.with_name("plstm-graph"), "fit", "--config", "freesolv"]
    refused = subprocess.run(command, cwd=outside, capture_output=True, text=True)
    assert refused.returncode == 2
    assert 'is not installed: pip install "plstm-graph[train]", in a checkout ".[train]".' in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_the_command_line_runs_with_the_wheel_alone(wheel, tmp_path):
    """In an empty folder, beside another package that is named datasets."""
    python = bare_environment(tmp_path / "venv", wheel, "train")
    [packages] = (tmp_path / "venv").glob("lib/python*/site-packages")
    (packages / "datasets").mkdir()
    (packages / "datasets" / "__init__.py").write_text("OWNER = 'another package'\n")
    outside = tmp_path / "elsewhere"
    outside.mkdir()

    def plstm_graph(*arguments):
        return run([python.with_name("plstm-graph"), *arguments], outside)

    small = ["--trainer.max_epochs", "1", "--model.network.hidden_channels", "16"]
    table = plstm_graph("compare", "freesolv", "freesolv_gine", "--seeds", "1", *small)
    assert "PLSTM (freesolv)" in table
    assert "GINE (freesolv_gine)" in table
    plstm_graph("fit", "--config", "freesolv", *small)
    best = max((outside / "runs" / "freesolv-plstm").glob("*/checkpoints/best-0.ckpt"))
    (outside / "mols.smi").write_text("CCO\nc1ccccc1O\n")
    given = ["--data.path", "mols.smi", "--ckpt_path", best, "--output"]
    plstm_graph("predict", *given, "out.csv")
    header = "smiles,predicted_expt,nearest_similarity,error\nCCO,"
    assert (outside / "out.csv").read_text().startswith(header)
    plstm_graph("fingerprint", *given, "out.npz")
    plstm_graph("explain", *given, "explained")
    assert {path.suffix for path in (outside / "explained").iterdir()} == {".csv", ".svg"}
    rows = [f"{'C' * (n % 20 + 1)}{end},{n}.5" for n in range(20) for end in ("O", "N")]
    (outside / "mine.csv").write_text("\n".join(["smiles,y", *rows]))
    once = ["--ensemble-size", "1", "--epochs", "1", "--split", "random"]
    assert "Targets (regression)" in plstm_graph("train", "-i", "mine.csv", "-o", "model", *once)
    plstm_graph("predict", "-i", "mine.csv", "--model-paths", "model", "-o", "predictions.csv")
    header = "smiles,y,predicted_y,nearest_similarity,error\nCO,0.5,"
    assert (outside / "predictions.csv").read_text().startswith(header)
    script = "import datasets; from plstm_graph.datasets import OGB; print(datasets.OWNER, OGB.__module__)"
    assert run([python, "-c", script], outside) == "another package plstm_graph.datasets.ogb_mol\n"
