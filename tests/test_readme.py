"""The README and the pages in docs/ tell the truth about what can be typed and what lies where."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest
import starts
import yaml

ROOT = Path(__file__).parents[1]
PAGES = {
    path: path.read_text()
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    if path.name != "log.md"  # about the past
}
README = "\n".join(PAGES.values())
MOST_LINES = 160
BLOCKS = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
COMMANDS = [
    command.strip()
    for block in BLOCKS
    for line in block.splitlines()
    for command in line.split("#")[0].split(";")
    if command.strip()
]


def test_readme_shows_commands_of_every_kind() -> None:
    assert {command.split()[0] for command in COMMANDS} >= {"make", "dagster", "dg", "dvc"}


@pytest.mark.parametrize(
    "command", [command for command in COMMANDS if command.startswith("make ")]
)
def test_every_make_command_in_the_readme_is_a_target(command: str) -> None:
    target = command.split()[1]
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), (
        f"no target for: {command}"
    )


@pytest.mark.parametrize("name", re.findall(r"NAME=([\w-]+)", README))
def test_every_profile_named_in_the_readme_is_there(name: str) -> None:
    assert (ROOT / "profiles" / f"{name}.yaml").is_file()


@pytest.mark.parametrize(
    "command", sorted({command.split()[1] for command in COMMANDS if command.startswith("dvc ")})
)
def test_every_dvc_command_in_the_readme_exists(command: str) -> None:
    assert starts.run("dvc", command, "--help").returncode == 0


def test_no_documented_command_makes_anything_with_plain_dvc() -> None:
    """Plain `dvc repro` loses a change that is made while a stage runs (orchestration/dvc_repro.py).

    So every command that makes something is orchestration.repro.
    """
    texts = [
        *COMMANDS,
        (ROOT / "Makefile").read_text(),
        *(path.read_text() for path in (ROOT / "profiles").iterdir()),
    ]
    assert not [text for text in texts if re.search(r"\bdvc repro\b", text)]
    messages = [
        path
        for package in ("core", "assets", "training", "evaluation", "orchestration")
        for path in sorted((ROOT / package).glob("*.py"))
        if re.search(r"(first|again|then): dvc repro", path.read_text())
    ]
    assert not messages


def test_every_stage_address_in_the_readme_names_an_item() -> None:
    graph = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    recipes = yaml.safe_load((ROOT / "profiles" / "sample.yaml").read_text())["mixed_dataset"][
        "recipes"
    ]
    addresses = re.findall(r"orchestration\.repro (\w+)(?:@(\w+))?", README)
    assert addresses
    for stage, item in addresses:
        assert stage in graph, f"no stage {stage}"
        assert not item or item in recipes, f"no item {item}"


@pytest.mark.parametrize("module", re.findall(r"python -m ([\w.]+)", README))
def test_every_module_run_in_the_readme_exists(module: str) -> None:
    assert find_spec(module) is not None


def test_the_map_names_only_what_is_there_and_every_module() -> None:
    tree = PAGES[ROOT / "docs/map.md"].split("```")[1]
    named, folder = set(), Path()
    for line in tree.strip().splitlines():
        names = [
            word.rstrip(",")
            for word in re.split(r"\s{2,}", line.strip())[0].split()
            if re.search(r"[./]", word)
        ]
        if not names:
            names = [line.split()[0]]
        for name in names:
            path = folder / name if line.startswith("  ") else Path(name)
            assert (ROOT / path).exists(), f"the map names {path}, which is not there"
            named.add(path)
            if name.endswith("/") and not line.startswith("  "):
                folder = path
    for package in ("core", "assets", "training", "evaluation", "orchestration"):
        modules = {
            path.relative_to(ROOT)
            for path in (ROOT / package).glob("*.py")
            if path.name != "__init__.py"
        }
        assert modules <= named, f"not on the map: {sorted(map(str, modules - named))}"


@pytest.mark.parametrize(
    "path, link",
    [
        (path, link)
        for path, text in PAGES.items()
        for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text)
        if "://" not in link
    ],
)
def test_every_link_and_picture_leads_somewhere(path: Path, link: str) -> None:
    assert (path.parent / link).exists()


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= MOST_LINES
