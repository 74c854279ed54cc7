"""The names that a configuration may use, by kind."""

from pathlib import Path

from viewfold.config import unknown
from viewfold.errors import InvalidInput


def listing(what: str) -> str:
    """One name a line, with the first sentence of what it is."""
    if what == "methods":
        from viewfold.ssl.methods import METHODS

        rows = {name: method.__doc__ for name, method in METHODS.items()}
    elif what == "backbones":
        from viewfold.ssl.backbones import BACKBONES

        rows = {name: build.__doc__ for name, build in BACKBONES.items()}
        rows["any timm model"] = "By its name in timm.list_models(), built without its classifier."
    elif what == "policies":
        from viewfold.augment.policies import POLICIES

        rows = {name: policy.__doc__ for name, policy in POLICIES.items()}
    else:
        raise unknown("list", what, ["methods", "backbones", "policies"])
    return "\n".join(f"{name:18} {first_line(doc)}" for name, doc in sorted(rows.items()))


def first_line(doc: str | None) -> str:
    """What a docstring says first; nothing where somebody registered a thing without one."""
    return (doc or "").partition("\n")[0]


def hint(what: str) -> str:
    """What else can be asked about these names."""
    return "see what they do: viewfold list policies --sheets FOLDER" if what == "policies" else ""


def sheets_of(what: str, folder: Path) -> str:
    """The policies drawn into `folder`: the paths, one a line.

    Raises:
        InvalidInput: names that cannot be drawn.
    """
    if what != "policies":
        raise InvalidInput(f"--sheets draws policies, not {what}: viewfold list policies --sheets {folder}")
    from viewfold.jobs.preview import policy_sheets

    return "\n".join(map(str, policy_sheets(folder)))
