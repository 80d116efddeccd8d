"""Writes docs/PYTHON.md, the reference of `mfnet_runtime`, from its docstrings.

python tests/print_reference.py
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path
from typing import Any

import mfnet_runtime as mf

FILE = Path(__file__).parents[1] / "docs" / "PYTHON.md"
HEAD = """# Python reference

What `import mfnet_runtime` offers; made from the docstrings by `python tests/print_reference.py`.

```python
{example}
```

Each error is a subclass of `MFNetError`; its message is one line with the file, what was found,
what was expected and what to do.
"""


def reference() -> str:
    """Return the page."""
    doc = inspect.getdoc(mf) or ""
    example = inspect.cleandoc(doc.split("\n\n", 1)[1])
    objects = {name: getattr(mf, name) for name in mf.__all__ if name != "__version__"}
    parts = [HEAD.format(example=example)]
    for name in sorted(
        objects, key=lambda name: (name not in ("load", "Model"), name != "load", name)
    ):
        parts.append(f"## `{name}`\n\n{described(name, objects[name])}")
        if inspect.isclass(objects[name]):
            parts += methods(name, objects[name])
    return "\n".join(parts)


def methods(owner: str, kind: type) -> list[str]:
    """Return a section for each public method and property."""
    found = []
    for name, member in vars(kind).items():
        if name.startswith("_") or not (inspect.isfunction(member) or isinstance(member, property)):
            continue
        found.append(f"### `{owner}.{name}`\n\n{described(name, member)}")
    return found


def described(name: str, thing: Any) -> str:
    """Return signature and docstring of a function, class or property as Markdown."""
    text = ""
    if callable(thing) and not (inspect.isclass(thing) and issubclass(thing, Exception)):
        signature = re.sub(r"(: |-> )'([^']*)'", r"\1\2", str(inspect.signature(thing)))
        signature = re.sub(r"(\w+Options)\((?:[^()]|\([^()]*\))*\)", r"\1()", signature)
        signature = re.sub(r"<function [\w.]*<lambda> at \w+>", "...", signature)
        if not dataclasses.is_dataclass(thing):
            text = f"```python\n{name}{signature}\n```\n\n"
    lines = []
    for line in (inspect.getdoc(thing) or "").splitlines():
        heading = re.fullmatch(r"(Args|Returns|Raises|Attributes):", line)
        entry = re.fullmatch(r" {4}(\*{0,2}\w+): (.*)", line)
        if heading:
            lines.append(f"**{heading[1]}**\n")
        elif entry:
            lines.append(f"* `{entry[1]}`: {entry[2]}")
        else:
            lines.append(f"  {line.strip()}" if line.startswith("     ") else line.strip())
    if inspect.isclass(thing) and dataclasses.is_dataclass(thing):
        lines += ["", "**Fields**", "", *fields(thing)]
    return text + "\n".join(lines) + "\n"


def fields(kind: type) -> list[str]:
    """Return the fields of a dataclass, with the comments beside them."""
    pattern = re.compile(r"    (\w+): (.+?)(?: = (.+?))?(?:  # (.+))?")
    found = (pattern.fullmatch(line) for line in inspect.getsource(kind).splitlines())
    names = {field.name for field in dataclasses.fields(kind) if field.init}
    return [
        f"* `{name}: {annotation}{f' = {default}' if default else ''}`"
        f"{f': {comment}' if comment else ''}"
        for name, annotation, default, comment in (match.groups() for match in found if match)
        if name in names
    ]


if __name__ == "__main__":
    FILE.write_text(reference(), encoding="utf-8")
