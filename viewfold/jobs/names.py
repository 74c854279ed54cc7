"""The names that a configuration may use, by kind."""

from viewfold.config import unknown


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
        from viewfold.augment import POLICIES

        rows = {name: policy.__doc__ for name, policy in POLICIES.items()}
    else:
        raise unknown("list", what, ["methods", "backbones", "policies"])
    return "\n".join(f"{name:18} {(doc or '').splitlines()[0]}" for name, doc in sorted(rows.items()))
