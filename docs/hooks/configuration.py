"""Writes reference/configuration.md from conf/ and experiments/ when MkDocs builds the site."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import yaml
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

PAGE = "reference/configuration.md"
INTRODUCTION = """\
# Configuration

A run is composed from one choice of each group and the keys at the top level. Choose with
`GROUP=CHOICE`, change a value with `GROUP.KEY=VALUE`, add a key that a mapping lacks with
`+GROUP.KEY=VALUE`, and remove one with `~GROUP.KEY`. `sparsekit train --cfg job OVERRIDES...`
prints the composed config without running it. `???` marks a value that you have to give.

This page is generated from the comments in `conf/` and `experiments/`.
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the page to the site."""
    root = Path(config.config_file_path).parent
    files.append(File.generated(config, PAGE, content="\n".join(page(root))))
    return files


def page(root: Path) -> Iterator[str]:
    """The page's lines: the top level, each group with its choices, and the experiments."""
    yield INTRODUCTION
    yield "## Top level { #top-level }\n"
    yield from choice(root / "conf" / "config.yaml")
    conf = root / "conf"
    described = dict(choices((conf / "config.yaml").read_text()))
    for group in sorted({path.parent for path in conf.rglob("*.yaml")} - {conf}):
        name = str(group.relative_to(conf))
        yield f"## {name} {{ #{name.replace('/', '-')} }}\n"
        yield described[name]
        for path in sorted(group.glob("*.yaml")):
            yield f"### `{name}={path.stem}` {{ #{name.replace('/', '-')}-{path.stem} }}\n"
            yield from choice(path)
    yield "## experiments { #experiments }\n"
    for path in sorted((root / "experiments").glob("*.yaml")):
        yield f"### `experiments={path.stem}` {{ #experiments-{path.stem} }}\n"
        yield from choice(path)


def choices(config: str) -> Iterator[tuple[str, str]]:
    """For each group its name, and its comment and default in the defaults list of a config."""
    for line in config.splitlines():
        found = re.match(r"  - (?:override )?([a-z/]+): (\S+)\s+# (.*)", line)
        if found:
            name, default, comment = found.groups()
            given = "Has to be chosen" if default == "???" else f"Default: `{name}={default}`"
            yield name, f"{comment[0].upper()}{comment[1:]}. {given}.\n"


def choice(path: Path) -> Iterator[str]:
    """One file: its opening comment as text, its keys as they are written there."""
    lines = path.read_text().splitlines()
    size = next((n for n, line in enumerate(lines) if not line.startswith("#")), len(lines))
    yield from opening_comment(lines[:size])
    body = "\n".join(lines[size:]).strip("\n").replace("${this_command:}", "sparsekit train")
    yield from ("", *linked_target(body))
    if body:
        yield f"```yaml\n{body}\n```\n"


def opening_comment(lines: list[str]) -> Iterator[str]:
    """Comment lines as Markdown: commands as code, prose as prose."""
    for line in lines:
        text = line.removeprefix("#").strip()
        if text.startswith("@package"):
            continue
        if re.match(r"(python|sparsekit) ", text):
            yield f"```sh\n{text}\n```\n"
        else:
            yield with_code(text)


def with_code(text: str) -> str:
    """`text` with overrides such as teacher=none marked as code where they are not yet."""
    parts = text.split("`")
    parts[::2] = [re.sub(r"([\w.]+=[\w.,/-]*\w)", r"`\1`", part) for part in parts[::2]]
    return "`".join(parts)


def linked_target(body: str) -> Iterator[str]:
    """A line that links the class or function which the file's `_target_` names, if it has one."""
    node = yaml.safe_load(body) if body else None
    target = node.get("_target_") if isinstance(node, dict) else None
    if target:
        name = target.rpartition(".")[2]
        yield f'Builds <autoref identifier="{target}" optional>`{name}`</autoref>.\n'
