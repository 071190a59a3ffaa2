"""Find names in params.yaml that its two readers understand differently.

The stages read YAML 1.1 (PyYAML), DVC reads YAML 1.2. An unquoted `7e-1` is text in 1.1 and a
number in 1.2; `no` is the reverse; `010` is 8 in one and 10 in the other. DVC then skips such an
item, or fails without naming it. So a name must be text in both, and a quoted one always is. The
check needs the file as written, so it reads YAML nodes and not values. The cost: a copy of YAML
1.2's rules for numbers, a little wider than DVC's.
"""

import re
from collections.abc import Iterator, Sequence

import yaml

from core.params import ITEMS

TEXT = "tag:yaml.org,2002:str"
MERGE = "tag:yaml.org,2002:merge"  # the key `<<`, which is not a name
NAMING = {
    ("comparison", "baseline"),
    ("comparison", "untrained"),
    ("comparison", "result"),
    ("short_context_report", "against"),
}
"""Parameters whose values are names of items. Elsewhere `true` is a switch and 2024 a number, though
a domain has such a name.
"""
# A number in YAML 1.2 as DVC reads it. Everything else that is not text in 1.2 (true, null, a date,
# .inf) is not text in 1.1 either.
NUMBER = re.compile(
    r"(?=[-+.0-9])[-+]?([0-9_.]+([eE][-+]?[0-9]+)?|0o[0-7_]+|0x[0-9a-fA-F_]+|0b[01_]+)"
)


def unquoted_names(text: str) -> list[str]:
    """One message per name that is not text to both readers, by line. Empty if it is not YAML."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError:
        return []
    if not isinstance(root, yaml.MappingNode):
        return []

    declared = set()
    for section in ITEMS.values():
        declared |= {key.value for key in _keys_at(root, section.split("."))}

    # Every key counts, and the values that name a declared item.
    found = {}
    for node, where, is_key in _scalars(root, ()):
        names_item = is_key or (where in NAMING and node.value in declared)
        if names_item and not _is_text(node):
            place = (node.start_mark.line, node.start_mark.column)
            found[place] = _message(node, where)
    return [found[place] for place in sorted(found)]


def _is_text(node: yaml.ScalarNode) -> bool:
    """Whether the scalar is text to both readers."""
    quoted = node.style is not None
    return quoted or node.tag == MERGE or (node.tag == TEXT and not NUMBER.fullmatch(node.value))


def _message(node: yaml.ScalarNode, where: tuple[str, ...]) -> str:
    """Where it is, why it is wrong and what to write."""
    place = f"params.yaml: line {node.start_mark.line + 1}: {'.'.join(where)}".rstrip(": ")
    return (
        f"{place}: without quotes, {node.value} is not text to every reader of YAML, but a number, "
        f'a date, true, false or null. Write "{node.value}", with the quotes.'
    )


def _keys_at(root: yaml.MappingNode, path: Sequence[str]) -> list[yaml.ScalarNode]:
    """The keys of the mapping at that path; empty if there is none.

    path: the names of nested sections, the outermost first.
    """
    node: yaml.Node | None = root
    for name in path:
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        node = next((value for key, value in pairs if key.value == name), None)
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    return [key for key, _ in pairs if isinstance(key, yaml.ScalarNode)]


def _scalars(
    node: yaml.Node, where: tuple[str, ...]
) -> Iterator[tuple[yaml.ScalarNode, tuple[str, ...], bool]]:
    """Every scalar below `node`, the path to it, and whether it is a key.

    where: the path to `node`.
    """
    if isinstance(node, yaml.ScalarNode):
        yield node, where, False
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _scalars(value, where)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                yield key, where, True
            yield from _scalars(value, (*where, str(key.value)))
