"""The longer intervals replace intervals that Dagster has, and its parts start by their names."""

from importlib import import_module

from orchestration.quiet import PARTS, SECONDS, slow_down


def test_each_interval_is_one_that_dagster_has_and_is_longer() -> None:
    own = {
        name: getattr(import_module(module), attribute)
        for name in SECONDS
        for module, attribute in [name.rsplit(".", 1)]
    }
    slow_down()
    for name, seconds in SECONDS.items():
        module, attribute = name.rsplit(".", 1)
        assert getattr(import_module(module), attribute) == seconds
        assert own[name] <= seconds


def test_each_part_has_a_command_line() -> None:
    for module, words in PARTS.values():
        assert callable(import_module(module).main)
        assert words
