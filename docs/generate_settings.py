"""Write docs/settings.md from the descriptions in flawmap.config: `python docs/generate_settings.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

from annotated_types import Ge, Gt, Le, Lt, MultipleOf
from pydantic.fields import FieldInfo

from flawmap.config import Recipe

PAGE = Path(__file__).with_name("settings.md")

HEAD = """# Settings

Every setting of a run, generated from `src/flawmap/config.py`; do not edit this page by hand.

A run is one TOML file, a recipe. `flawmap recipes` lists those that are shipped, `flawmap recipes fast` shows one with
every setting written out, `flawmap recipes fast --out mine.toml` writes it to a file. Settings that a recipe leaves out
have the defaults below, which are the paper's. `--config` names the recipe of a training, `--set` changes one setting:

```
flawmap train parts --out part.bundle --config fast --set detect.steps=3000 --set image.shrink=area
```

The recipe of a training, complete, is in its bundle as `recipe.toml`.
"""

SIGNS = {
    Ge: ("ge", "≥ "),
    Gt: ("gt", "> "),
    Le: ("le", "≤ "),
    Lt: ("lt", "< "),
    MultipleOf: ("multiple_of", "multiple of "),
}


def page() -> str:
    """The whole page as Markdown."""
    parts = [HEAD]
    for section, field in Recipe.model_fields.items():
        model = field.annotation
        assert model is not None
        rows = [
            f"| `{name}` | {default(entry)} | {allowed(entry)} | {entry.description} |"
            for name, entry in model.model_fields.items()
        ]
        parts.append(
            f"## [{section}]\n\n{model.__doc__}\n\n| setting | default | allowed | meaning |\n|---|---|---|---|\n"
            + "\n".join(rows)
            + "\n"
        )
    return "\n".join(parts)


def default(entry: FieldInfo) -> str:
    """The default as it stands in a TOML file."""
    return f"`{json.dumps(entry.default, ensure_ascii=False)}`"


def allowed(entry: FieldInfo) -> str:
    """The range of a number, or the words one may choose from."""
    choices = get_args(entry.annotation)
    if choices and all(isinstance(choice, str) for choice in choices):
        return ", ".join(f"`{choice}`" for choice in choices)
    limits = [
        sign + f"{getattr(rule, name):g}"
        for rule in entry.metadata
        for kind, (name, sign) in SIGNS.items()
        if isinstance(rule, kind)
    ]
    return ", ".join(limits)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
