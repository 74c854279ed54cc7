"""The page of a card: what it says, that it says no more than the intervals, and that it is one valid file."""

import copy
import re
import xml.etree.ElementTree as ElementTree
from collections import Counter
from html.parser import HTMLParser
from typing import Any

import pytest

from viewfold.jobs.card_page import COLUMNS, card_page
from viewfold.jobs.card_plots import MARKS
from viewfold.jobs.card_verdicts import beside, headline
from viewfold.jobs.card_words import tell

VOID = {"meta", "br", "img", "hr", "input", "link"}
TRANSFORMATIONS: dict[str, tuple[str, list[float]]] = {
    "rotation": ("degrees", [0, 20, 45, 90, 180]),
    "scale": ("factor", [1, 1.2, 1.5, 2]),
    "shear": ("degrees", [0, 10, 20, 40]),
    "translation": ("share of the side", [0, 0.05, 0.15, 0.3]),
    "hue": ("turns", [0, 0.1, 0.25, 0.5]),
    "brightness": ("log gain", [0, 0.2, 0.5, 1]),
    "field": ("share of the side", [0, 0.01, 0.03, 0.08]),
    "jpeg": ("quality", [100, 70, 30, 5]),
}
CHANCE = {"trained": 0.82, "against": 0.7, "untrained": 0.05}
"""Drift to another image: that of an untrained network is tiny, all its features point nearly the same way."""
SHARE = {
    "trained": dict(zip(TRANSFORMATIONS, (0.6, 0.3, 0.35, 0.4, 0.04, 0.05, 0.45, 0.2), strict=True)),
    "against": dict(zip(TRANSFORMATIONS, (0.5, 0.35, 0.3, 0.4, 0.02, 0.03, 0.5, 0.15), strict=True)),
    "untrained": dict(zip(TRANSFORMATIONS, (0.9, 0.6, 0.6, 0.5, 0.7, 0.5, 0.4, 0.2), strict=True)),
}
VALUES: dict[str, tuple[float | None, ...]] = {
    # trained, against, untrained, chance, half the interval
    "invariant/knn5/top1": (0.612, 0.655, 0.341, 0.092, 0.041),
    "invariant/knn5/top1_balanced": (0.571, 0.603, 0.287, 0.0435, 0.043),
    "invariant/linear/top1": (0.664, 0.689, 0.402, 0.092, 0.038),
    "invariant/linear/top1_balanced": (0.628, 0.651, 0.355, 0.0435, 0.04),
    "invariant/linear/top5": (0.913, 0.92, 0.733, 0.311, 0.022),
    "equivariant/knn5/top1": (0.468, 0.61, 0.339, 0.092, 0.043),
    "all/linear/top1": (0.671, 0.691, 0.431, 0.092, 0.037),
    "invariant/rotation/r2": (0.213, 0.24, 0.188, -0.0003, 0.03),
    "invariant/rotation/r2_official": (0.671, 0.68, 0.664, 0.59, 0.012),
    "equivariant/rotation/r2": (0.684, 0.247, 0.191, -0.0003, 0.029),
    "equivariant/rotation/r2_official": (0.868, 0.689, 0.665, 0.59, 0.012),
    "equivariant/colour/r2": (-0.41, 0.002, 0.088, -0.0001, 0.05),
    "equivariant/retrieval/mrr": (0.571, 0.183, 0.181, 0.1799, 0.02),
    "equivariant/retrieval/hit1": (0.402, 0.052, 0.051, 0.05, 0.018),
    "equivariant/retrieval/pre": (0.101, 0.49, 0.52, 0.4998, 0.03),
    "invariant/clusters/acc": (0.332, 0.351, 0.211, 0.121, 0.02),
    "invariant/clusters/ami": (0.3, 0.32, 0.14, -0.0001, 0.02),
    "invariant/effective_rank": (41.372, 57.9, 9.11, 1.0, None),
    "invariant/alignment": (0.21, 0.19, 0.02, 1.63, 0.02),
    "invariant/uniformity": (-2.61, -2.72, -0.19, 0.0, 0.04),
    "invariant/shift/consistency": (0.959, 0.951, 0.978, 0.071, 0.008),
    "invariant/shift/adversarial": (0.861, 0.843, 0.911, 0.0002, 0.02),
    "invariant/shift/drift": (0.0123, 0.0151, 0.0001, None, 0.00004),
    "invariant/domains/gap": (0.143, 0.12, 0.09, -0.0001, 0.03),
    "invariant/domains/in_domain": (0.59, 0.6, 0.35, 0.09, 0.03),
    "invariant/domains/out_of_domain": (0.447, 0.48, 0.26, 0.09, 0.03),
    "invariant/detection/knn_auroc": (0.71, 0.74, 0.55, 0.5, 0.04),
    "invariant/detection/knn_fpr95": (0.77, 0.7, 0.93, 0.95, 0.05),
}


def measure(name: str, value: float, chance: float, half: float | None) -> dict[str, Any]:
    low, high = (None, None) if half is None else (value - half, value + half)
    return {"name": name, "value": value, "low": low, "high": high, "chance": chance, "n": 611, "detail": {"k": 5}}


def measures_of(role: str) -> list[dict[str, Any]]:
    column = list(MARKS).index(role)
    found = []
    for name, row in VALUES.items():
        *values, chance, half = row
        value = values[column]
        assert value is not None
        found.append(measure(name, value, CHANCE[role] if chance is None else chance, half))
    for part, extra in (("invariant", 0.0), ("equivariant", 0.1)):
        for name, share in SHARE[role].items():
            mean = (share + extra) * CHANCE[role] * 0.6
            found.append(measure(f"{part}/curve/{name}", mean, CHANCE[role], mean * 0.08))
    return found


def curves_of(role: str) -> list[dict[str, Any]]:
    curves = []
    for part, extra in (("invariant", 0.0), ("equivariant", 0.1)):
        for name, (unit, strengths) in TRANSFORMATIONS.items():
            steps = [step / (len(strengths) - 1) for step in range(len(strengths))]
            drift = [(SHARE[role][name] + extra) * CHANCE[role] * step for step in steps]
            curve = {"name": name, "unit": unit, "strengths": strengths, "part": part, "n": 600}
            curve["drift"] = [[v, v * 0.92, v * 1.08] for v in drift]
            curve["change"] = [[v * 0.8, v * 0.7, v * 0.9] for v in drift] if part == "invariant" else None
            curves.append(curve | {"drift_chance": CHANCE[role], "change_chance": 0.91})
    return curves


def filters_of(role: str) -> list[dict[str, Any]]:
    layers = [f"backbone.layer{stage}.{block}.conv{conv}" for stage in (1, 2, 3) for block in (0, 1) for conv in (1, 2)]
    worn = role != "untrained"
    return [
        {
            "layer": layer,
            "num": 1024 * (depth + 1),
            "near_zero": 0.03 * depth * worn,
            "near_duplicate": 0.01 * depth * worn,
            "low_entropy": None if depth == 0 else 0.02 * depth * worn,
            "entropy_ratio": 0.99 - 0.02 * depth * worn,
        }
        for depth, layer in enumerate(layers)
    ]


def full_card(*roles: str) -> dict[str, Any]:
    lineage = {"method": {"name": "sie", "loss": {"weights": [10.0, 4.5]}}, "steps": 2000, "seed": 0}
    lineage |= {"manifest_hash": "9f2c41d07be84a55", "base": None}
    return {
        "format": 1,
        "encoders": {
            role: {
                "id": f"e{number}77c0de1234",
                "folder": f"/runs/{role}/encoder",
                "backbone": "resnet-small",
                "parts": {"invariant": 128, "equivariant": 128, "all": 256},
                "image_size": 64,
                "lineage": lineage,
            }
            for number, role in enumerate(roles)
        },
        "data": {
            "train": {"manifest_hash": "9f2c41d0", "samples": 611, "images": 12220, "classes": 23, "domains": 0},
            "val": {"manifest_hash": "77aa0b12", "samples": 153, "images": 3060, "classes": 23, "domains": 3},
        },
        "settings": {"k": 5, "probe": {"hidden": 256, "lr": 0.001}, "exclude_group": False, "parts": []},
        "measures": {role: measures_of(role) for role in roles},
        "curves": {role: curves_of(role) for role in roles},
        "filters": {role: filters_of(role) for role in roles},
        "skipped": [{"what": "fitted retrieval", "why": "the data has no poses"}, {"what": "weather", "why": "no sky"}],
    }


def tables(card: dict[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    return {role: {m["name"]: m for m in card["measures"][role]} for role in MARKS if role in card["measures"]}


def one_measure(name: str, trained: float, untrained: float, *, chance: float, half: float = 0.02) -> str:
    """The headline of a card with a single measure."""
    values = {"trained": trained, "untrained": untrained}
    return headline({role: {name: measure(name, value, chance, half)} for role, value in values.items()})


class Outline(HTMLParser):
    """Checks that tags close in order, and collects what a page is made of."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> at {self.getpos()}"

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data

    def attributes(self, name: str) -> list[str]:
        return [str(attributes[name]) for _, attributes in self.tags if name in attributes]


@pytest.fixture(scope="module")
def card() -> dict[str, Any]:
    return full_card("trained", "against", "untrained")


@pytest.fixture(scope="module")
def page(card: dict[str, Any]) -> str:
    return card_page(card)


def test_the_page_is_one_valid_file(page: str) -> None:
    outline = Outline(page)
    ids = Counter(outline.attributes("id"))
    assert not [name for name, times in ids.items() if times > 1]
    links = [link for name in ("href", "src", "xlink:href") for link in outline.attributes(name)]
    assert all(link.startswith("#") and link[1:] in ids for link in links)
    assert "@import" not in page
    assert set(re.findall(r"url\((.*?)\)", page)) <= {f"#{name}" for name in ids}
    headers = [attributes for tag, attributes in outline.tags if tag == "th"]
    assert headers
    assert all(attributes.get("scope") in {"row", "col"} for attributes in headers)


def test_each_drawing_is_xml_and_says_what_it_shows(page: str) -> None:
    drawings = [text for text in re.findall(r"<svg.*?</svg>", page, re.DOTALL) if 'aria-hidden="true"' not in text]
    labels = [ElementTree.fromstring(text).attrib["aria-label"] for text in drawings]
    # Three charts of dots, drift of two parts, change of one, four numbers of the filters.
    assert len(labels) == 3 + 3 * len(TRANSFORMATIONS) + 4
    assert len(set(labels)) == len(labels)
    assert any("kNN top-1, invariant: trained 0.612 [0.571, 0.653], against 0.655" in label for label in labels)
    # Drift at half a turn over the drift to another image: 0.04 * 0.82 / 0.82, and as much for the other encoders.
    expected = "hue: drift at 0.5 turns: trained 0.040 [0.037, 0.043], against 0.020 [0.018, 0.022], untrained 0.700"
    assert any(label.startswith(expected) for label in labels)


def test_every_value_is_shown_once_each(card: dict[str, Any], page: str) -> None:
    rows = re.findall(r'<tr role="row"><th scope="row".*?</tr>', page, re.DOTALL)
    names = list(tables(card)["trained"])
    assert len(rows) == len(names)
    shown = Counter(re.findall(r"-?\d+\.\d{3}", " ".join(rows)))
    given: Counter[str] = Counter()
    for table in tables(card).values():
        for one in table.values():
            given.update(f"{x:z.3f}" for x in (one["value"], one["low"], one["high"]) if x is not None)
    given.update(f"{one['chance']:z.3f}" for one in tables(card)["trained"].values())
    assert shown == given
    text = Outline(page).text
    assert all(tell(name).why in text for name in names)


def test_no_cell_holds_a_word_of_python(page: str) -> None:
    assert not re.search(r"\b(nan|None|True|inf|Undefined)\b|-0\.000\b", Outline(page).text)


def test_bold_is_what_lies_apart_from_the_untrained_network(page: str) -> None:
    # JPEG compression takes the encoder as far towards another image as the untrained network; its raw drift is larger.
    def bold(name: str) -> list[bool]:
        row = re.search(rf'<span class="name">{name}</span> <span class="part">invariant.*?</tr>', page, re.DOTALL)
        assert row
        return ["<strong>" in cell for cell in re.findall(r"<td.*?</td>", row[0], re.DOTALL)]

    assert bold("kNN top-1") == [True, True, False, False]
    assert bold("rotation left in it") == [False] * 4
    assert bold("JPEG compression") == [False, True, False, False]
    assert bold("effective rank") == [False] * 4


def test_what_was_skipped_is_said_where_it_belongs(page: str) -> None:
    sections = dict(re.findall(r"<h2>(.*?)</h2>(.*?)</section>", page, re.DOTALL))
    assert "Not measured: fitted retrieval, because the data has no poses." in sections["What it predicts"]
    assert "Not measured: weather, because no sky." in sections["Other measures"]


def test_the_headline_of_a_full_card(card: dict[str, Any], page: str) -> None:
    said = headline(tables(card))
    assert said == (
        "Ignores hue and brightness; moves less than the untrained network under in-plane rotation, scale, shear and"
        " translation; follows rotation; its predictor finds the view asked for; tells classes apart (kNN top-1 0.612,"
        " untrained 0.341, chance 0.092). A one-pixel shift changes 4.1 % of its answers (95 % interval 3.3 to 4.9 %);"
        " behind the untrained network in colour R2 (equivariant)."
    )
    assert said in Outline(page).text
    assert beside(tables(card)) in Outline(page).text
    assert "ahead in rotation R2 (equivariant), view retrieval MRR (equivariant)" in beside(tables(card))
    assert beside(tables(full_card("trained", "untrained"))) == ""


@pytest.mark.parametrize(
    ("name", "trained", "untrained", "chance", "said"),
    [
        ("equivariant/rotation/r2", 0.6, 0.1, 0.0, "Follows rotation."),
        # Intervals of 0.02 to either side: these meet.
        ("equivariant/rotation/r2", 0.6, 0.57, 0.0, "Nothing was learned"),
        # Better than the untrained network, and yet worse than a guess.
        ("equivariant/rotation/r2", -0.1, -0.5, 0.0, "Nothing was learned"),
        ("invariant/knn5/top1", 0.3, 0.1, 0.29, "Nothing was learned"),
        ("invariant/knn5/top1", 0.3, 0.1, 0.05, "Tells classes apart (kNN top-1 0.300, untrained 0.100, chance 0.050)"),
        ("invariant/knn5/top1", 0.3, 0.6, 0.05, "Nothing was learned"),
        ("invariant/curve/hue", 0.04, 0.3, 0.9, "Ignores hue."),
        ("invariant/curve/hue", 0.2, 0.3, 0.9, "Moves less than the untrained network under hue."),
        ("invariant/curve/hue", 0.3, 0.2, 0.9, "Nothing was learned"),
        ("invariant/rotation/r2", 0.5, 0.1, 0.0, "Nothing was learned"),
        ("equivariant/curve/hue", 0.04, 0.3, 0.9, "Nothing was learned"),
        ("invariant/clusters/ami", 0.4, 0.2, 0.0, "Better than chance and the untrained network only in clusters AMI"),
        ("equivariant/retrieval/mrr", 0.4, 0.2, 0.18, "Its predictor finds the view asked for."),
        # Features that tell nothing apart are the best at this.
        ("invariant/shift/drift", 0.001, 0.3, 0.9, "Nothing was learned"),
    ],
)
def test_a_claim_needs_both_intervals(name: str, trained: float, untrained: float, chance: float, said: str) -> None:
    assert one_measure(name, trained, untrained, chance=chance).startswith(said)


def test_an_encoder_like_the_untrained_network_has_learned_nothing() -> None:
    card = full_card("untrained")
    same = {"trained": card["measures"]["untrained"], "untrained": card["measures"]["untrained"]}
    said = headline(tables({"measures": same}))
    assert said == (
        "Nothing was learned that these measures can show: no interval lies on the good side of chance and the"
        " untrained network. A one-pixel shift changes 2.2 % of its answers (95 % interval 1.4 to 3.0 %)."
    )


def test_drifts_are_compared_by_the_distance_to_another_image() -> None:
    narrow = measure("invariant/curve/hue", 0.03, 0.05, 0.001)
    wide = measure("invariant/curve/hue", 0.05, 0.9, 0.001)
    assert headline({"trained": {narrow["name"]: wide}, "untrained": {narrow["name"]: narrow}}) == "Ignores hue."
    assert "Nothing" in headline({"trained": {narrow["name"]: narrow}, "untrained": {narrow["name"]: wide}})


def test_what_the_invariant_part_keeps_is_a_weakness() -> None:
    said = one_measure("invariant/rotation/r2", 0.5, 0.1, chance=0.0)
    assert said.endswith(" Its invariant part keeps more of the rotation than that of the untrained network.")


def test_without_intervals_nothing_is_claimed() -> None:
    one = measure("invariant/shift/consistency", 0.9, 0.1, None)
    assert headline({"trained": {one["name"]: one}}) == "No interval was measured, so nothing can be claimed."
    assert headline({}) == "Nothing was measured."


def test_a_card_of_measures_alone_is_a_page() -> None:
    odd = measure("invariant/brand_new/<score>", 0.25, 0.1, 0.05)
    unknown = measure("invariant/knn5/top1", float("nan"), float("nan"), None)
    tiny = measure("equivariant/rotation/r2", -0.0001, 0.0, 0.0001)
    page = card_page({"format": 1, "measures": {"trained": [odd, unknown, tiny], "untrained": []}})
    outline = Outline(page)
    assert "invariant/brand_new/<score>" in outline.text
    assert {"0.250", "0.000"} <= set(outline.text.split())
    assert not re.search(r"\b(nan|None)\b|-0\.000", outline.text)
    assert "What breaks it" not in outline.text
    Outline(card_page({}))


def test_names_from_files_are_text() -> None:
    card = full_card("trained", "untrained") | {"filters": {}}
    card["curves"] = {"trained": [copy.deepcopy(card["curves"]["trained"][0]) | {"name": "<b>$x_{$", "unit": "a&b"}]}
    card["encoders"]["trained"] |= {"folder": "<script>alert(1)</script>"}
    card["skipped"] = [{"what": "<i>", "why": '"<u>"'}]
    page = card_page(card)
    outline = Outline(page)
    assert not {"script", "i", "u", "b"} & {tag for tag, _ in outline.tags}
    assert "<script>alert(1)</script>" in outline.text
    assert any(label.startswith("<b>$x {$: drift at 180 a&b") for label in outline.attributes("aria-label"))


def test_the_columns_are_those_of_the_drawings() -> None:
    assert list(COLUMNS) == list(MARKS)
