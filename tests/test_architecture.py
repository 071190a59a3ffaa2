"""Imports run one way, and the graph's names and dependencies agree with the code."""

import ast
from pathlib import Path

import pytest
import yaml

from core.versions import DECIDED_BY

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "core": {"core"},
    "assets": {"core", "assets"},
    "training": {"core", "assets", "training"},
    "evaluation": {"core", "assets", "training", "evaluation"},
    "orchestration": {"core", "orchestration"},
}
MODULES = sorted(path for package in MAY_IMPORT for path in (ROOT / package).glob("*.py"))
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def imported(path: Path) -> set[str]:
    """Full names of the modules a file imports, at any depth of its code."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def closure(module: Path) -> set[str]:
    """The project files that a module needs, itself among them, as paths from the root. Those of
    core decide no bytes and are left out."""
    found, waiting = set(), [module]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.add(path)
        files = (ROOT / f"{name.replace('.', '/')}.py" for name in imported(path))
        waiting += [file for file in files if file.is_file()]
    paths = {path.relative_to(ROOT).as_posix() for path in found}
    return {path for path in paths if not path.startswith("core/")}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_run_one_way(path: Path) -> None:
    own = path.parent.name
    packages = {name.split(".")[0] for name in imported(path)}
    assert packages & MAY_IMPORT.keys() <= MAY_IMPORT[own]
    assert own == "orchestration" or not packages & {"dagster", "dvc"}


def test_one_module_asks_dvc_and_the_others_are_dvc() -> None:
    assert [
        path.name for path in MODULES if "dvc" in {name.split(".")[0] for name in imported(path)}
    ] == ["dvc_exp.py", "dvc_repro.py", "forks.py", "graph.py", "run_cache.py", "warm.py"]


OPENS_A_TOKENIZER = {
    "assets/agreement.py": "copies of two that are open, to compare them",
    "assets/encoding.py": "gigatoken, of what the one function leaves of the file",
    "assets/tokenizer.py": "the one function",
    "training/model.py": "the same for transformers; and older forms, to compare them",
}


def opens_a_tokenizer(path: Path) -> bool:
    """Whether a file calls what reads a tokenizer, such as from_file or from_pretrained of its
    class."""
    calls = [
        node.func
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    ]
    names = {(ast.unparse(call.value).split(".")[-1], call.attr) for call in calls}
    return any("Tokenizer" in owner and method.startswith("from_") for owner, method in names)


def test_every_tokenizer_is_opened_by_one_function() -> None:
    opening = {path.relative_to(ROOT).as_posix() for path in MODULES if opens_a_tokenizer(path)}
    assert opening == OPENS_A_TOKENIZER.keys()


DECIDE = {
    "gigatoken",
    "lm_eval",
    "matplotlib",
    "numpy",
    "pandas",
    "pyarrow",
    "tokenizers",
    "torch",
    "torchao",
    "transformers",
}
"""Packages another version of which may give other bytes."""
ONLY_READ = {"tokenizer": {"pyarrow"}, "checkpoint": {"tokenizers"}}
"""What a stage imports, but has no part in its bytes: it reads documents, or opens a tokenizer to
copy it."""


@pytest.mark.parametrize("stage", STAGES)
def test_an_artefact_names_the_versions_that_decide_its_bytes(
    stage: str,
) -> None:
    body = STAGES[stage].get("do", STAGES[stage])
    files = closure(ROOT / f"{body['cmd'].split()[2].replace('.', '/')}.py")
    packages = {name.split(".")[0] for file in files for name in imported(ROOT / file)}
    decide = packages & DECIDE - ONLY_READ.get(stage, set())
    assert set(DECIDED_BY[stage]) - {"python"} == decide
    assert "unicodedata" not in packages or "python" in DECIDED_BY[stage]


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_is_its_module_its_params_section_and_its_folder(stage: str) -> None:
    body = STAGES[stage].get("do", STAGES[stage])
    item = "/${key}" if "foreach" in STAGES[stage] else ""
    program, flag, module, *arguments = body["cmd"].split()
    assert (program, flag) == ("python", "-m")
    assert module.split(".")[1] == stage and (ROOT / f"{module.replace('.', '/')}.py").is_file()
    # DVC compares maps without their order, and commands letter by letter.
    assert arguments == (
        ["${key}"] if item else ["${raw_corpus.domains}"] if stage == "token_demand" else []
    )
    stays = {"persist": True}  # until the frame of the stage has replaced it whole
    assert body["outs"] == [{f"data/{stage}{item}": stays}]
    assert body["metrics"] == [{f"metrics/{stage}{item}.json": stays}]
    assert any(str(key).split(".")[0] == stage for key in body["params"])
    assert body["desc"]


def checks_written(module: Path) -> dict[str, bool]:
    """By name, whether it blocks: every check that a module makes."""
    calls = [
        {word.arg: ast.literal_eval(word.value) for word in node.keywords if word.arg in CHECK}
        for node in ast.walk(ast.parse(module.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Check"
    ]
    return {words["name"]: words.get("blocking", True) for words in calls}


CHECK = ("name", "blocking")


@pytest.mark.parametrize("stage", STAGES)
def test_dvc_yaml_declares_the_checks_that_a_stage_makes(stage: str) -> None:
    body = STAGES[stage].get("do", STAGES[stage])
    declared = body["meta"].get("checks", {})
    assert all(words["description"] for words in declared.values())
    of_stage = {name: words for name, words in declared.items() if "metric" not in words}
    assert {name: words["blocking"] for name, words in of_stage.items()} == checks_written(
        ROOT / f"{body['cmd'].split()[2].replace('.', '/')}.py"
    )


@pytest.mark.parametrize("stage", STAGES)
def test_the_code_a_stage_depends_on_is_its_whole_import_closure(stage: str) -> None:
    body = STAGES[stage].get("do", STAGES[stage])
    module = ROOT / f"{body['cmd'].split()[2].replace('.', '/')}.py"
    listed = [dep for dep in body["deps"] if dep.endswith(".py")]
    assert listed == sorted(listed)
    assert set(listed) == {path for path in closure(module) if not path.endswith("__init__.py")}


@pytest.mark.parametrize(
    "profile", sorted((ROOT / "profiles").glob("*.yaml")), ids=lambda path: path.stem
)
def test_every_profile_has_a_section_for_every_stage(profile: Path) -> None:
    assert set(yaml.safe_load(profile.read_text())) == set(STAGES)


def test_core_is_no_dependency_of_any_stage() -> None:
    """So a reworded error re-makes nothing. tests/test_golden.py guards the bytes instead."""
    bodies = [stage.get("do", stage) for stage in STAGES.values()]
    assert not [dep for body in bodies for dep in body["deps"] if dep.startswith("core")]


def test_core_imports_nothing_heavy_at_its_top() -> None:
    heavy = {"dagster", "dvc", "matplotlib", "numpy", "pandas", "pyarrow", "torch", "transformers"}
    for path in sorted((ROOT / "core").glob("*.py")):
        body = ast.parse(path.read_text()).body
        top = [node for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
        names = {name.name for node in top if isinstance(node, ast.Import) for name in node.names}
        names |= {node.module or "" for node in top if isinstance(node, ast.ImportFrom)}
        assert not {name.split(".")[0] for name in names} & heavy, path


def test_a_test_states_its_invariant_in_60_characters() -> None:
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        names = [
            node.name
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
        ]
        assert len(names) == len(set(names)), f"{path.name}: a name stands twice, so one never runs"
        assert not [name for name in names if len(name) > 60], path.name
