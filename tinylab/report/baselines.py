"""Where baselines disagree, for people."""

from __future__ import annotations

from typing import Any

from tinylab.report.views import View


def baselines_view(group: dict[str, Any], k: int) -> View:
    """The components by which baselines differ: opposite signs first, then what is among the strongest of some and not of all.

    Where they do not, it has a title alone.

    Args:
        group: of baselines.json.
        k: how many components count as the strongest.
    """
    names = list(group["runs"])
    told = [one for one in group["components"] if one["sign"] or len(one["strongest_by"]) < len(names)]
    first = group["components"][0]["component"]
    keys = list(first) if isinstance(first, dict) else ["layer"]
    most = min(k, len(group["components"]))  # where there are not so many, all of them are listed
    shared = [f"{one} and {other} share {count} of {most}"
              for one, row in group["shared"].items() for other, count in row.items()]
    settings = "".join(f", {name}={value}" for name, value in group.get("settings", {}).items())
    what = "where baselines disagree" if told else "baselines agree in sign and in what is strongest"
    title = f"{group['battery']} on {group['condition']}, {group['model']}{settings}: {what} ({'; '.join(shared)})"
    rows = [
        [*(one["component"].values() if isinstance(one["component"], dict) else [one["component"]]),
         "opposite signs" if one["sign"] else f"strongest by {', '.join(one['strongest_by'])} only",
         *(_effect(one["effects"][name]) for name in names)]
        for one in told
    ]
    return View(title, [*keys, "how", *names], rows)


def _effect(told: dict[str, Any]) -> str:
    """A change in logits with its interval, and its rank, such as `-9.84 ± 0.41 (2)`."""
    if told["logits"] is None:
        return "–"
    half = "" if told["plus_minus"] is None else f" ± {told['plus_minus']:.2f}"
    return f"{told['logits']:+z.2f}{half} ({told['rank']})"
