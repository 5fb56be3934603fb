"""The node's settings: what is refused, what fits, what is told."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pydicom
import pytest
import yaml

from ldct_denoise.errors import ConfigError
from ldct_denoise.io.dicom.instance import attribute_values
from ldct_denoise.node.rules import Rule, Rules, load_rules
from ldct_denoise.node.settings import Retry
from tests.conftest import ROOT
from tests.enhanced_file import make_enhanced

GOOD: dict[str, Any] = {
    "spool": "/nowhere",
    "accept": [{"ae_title": "CT1", "hosts": ["10.1.2.3", "10.4.0.0/16"]}],
    "destinations": {"pacs": {"host": "h", "port": 104, "ae_title": "PACS"}, "web": {"stow": "https://h/studies"}},
    "rules": [{"match": {"ConvolutionKernel": "B*"}, "send_to": ["pacs", "web"]}, {"ignore": True}],
}


def load(tmp_path: Path, **changes: Any) -> Rules:
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump(GOOD | changes))
    return load_rules(file)


def test_a_node_listens_on_loopback_by_default(tmp_path: Path) -> None:
    rules = load(tmp_path)
    assert rules.host == "127.0.0.1"
    assert load(tmp_path, accept=[{"ae_title": "A"}]).accept[0].allows("A", "127.0.0.1")
    assert not load(tmp_path, accept=[{"ae_title": "A"}]).accept[0].allows_host("10.1.2.3")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"colour": "red"}, "colour: no such setting"),
        ({"accept": []}, "accept: "),
        ({"accept": [{"ae_title": "A" * 17}]}, "1 to 16"),
        ({"accept": [{"ae_title": "CT", "hosts": ["scanner"]}]}, "no address or network"),
        ({"rules": [{"send_to": ["nowhere"]}]}, "'nowhere', which is no destination; known: pacs, web"),
        ({"rules": [{}]}, "name at least one destination"),
        ({"rules": [{"ignore": True, "send_to": ["pacs"]}]}, "ignored"),
        ({"rules": [{"match": {"Kernel": "B*"}, "ignore": True}]}, "'Kernel' is no DICOM attribute"),
        ({"rules": [{"strength": 1.5, "send_to": ["pacs"]}]}, "rules.0.strength"),
        ({"destinations": {"pacs": {"stow": "ftp://h"}}}, "https://"),
        ({"destinations": {"../up": {"stow": "https://h/s"}}, "rules": [{"ignore": True}]}, "letters, digits"),
        ({"port": 70000}, "port"),
        ({"host": "localhost"}, "is no address"),
        ({"limits": {"associations": 0}}, "limits.associations"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=r"rules\.yaml") as caught:
        load(tmp_path, **change)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_password_in_an_address_is_refused_and_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="authorization_file") as caught:
        load(tmp_path, destinations={"web": {"stow": "https://me:hunter2@h/studies"}}, rules=[{"ignore": True}])
    assert "hunter2" not in str(caught.value)


def test_a_missing_file_and_invalid_yaml_are_reported(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_rules(tmp_path / "absent.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match="not YAML"):
        load_rules(tmp_path / "bad.yaml")


@pytest.mark.parametrize(
    ("match", "fits"),
    [
        ({}, True),
        ({"SeriesDescription": "*LOW dose*"}, True),
        ({"SeriesDescription": "low"}, False),
        ({"SeriesDescription": "*[bone]*"}, False),
        ({"ProtocolName": "Thorax [1MM]*"}, True),
        ({"SliceThickness": "<=3"}, True),
        ({"SliceThickness": "< 3"}, False),
        ({"SliceThickness": 3}, True),
        ({"SliceThickness": [1, "3.00"]}, True),
        ({"ConvolutionKernel": ["Br*", "B?0f"]}, True),
        ({"ConvolutionKernel": "B30f", "SliceThickness": ">5"}, False),
        ({"ImageType": "AXIAL"}, True),
        ({"ImageType": "LOCALIZER"}, False),
        ({"KVP": "*"}, False),
        ({"SeriesDescription": ">5"}, False),
    ],
)
def test_which_series_a_rule_means(match: dict[str, Any], fits: bool) -> None:
    values = {
        "SeriesDescription": ("Abdomen low dose",),
        "SliceThickness": ("3.0",),
        "ConvolutionKernel": ("B30f", "3"),
        "ImageType": ("ORIGINAL", "PRIMARY", "AXIAL"),
        "KVP": (),
        "ProtocolName": ("Thorax [1mm] routine",),
    }
    assert Rule(match=match, ignore=True).fits(values) is fits


def test_rules_look_into_the_functional_groups_of_multi_frame_images(tmp_path: Path) -> None:
    asked = ["ConvolutionKernel", "SliceThickness", "XRayTubeCurrent", "ImageType", "StationName"]
    told = attribute_values(make_enhanced(tmp_path / "in" / "enhanced.dcm"), asked)
    assert (told["ConvolutionKernel"], told["StationName"]) == (("B30f",), ())
    assert (float(told["SliceThickness"][0]), float(told["XRayTubeCurrent"][0])) == (3, 100)
    assert told["ImageType"][:2] == ("ORIGINAL", "PRIMARY")
    assert Rule(match={"ConvolutionKernel": "B*", "SliceThickness": "<=3"}, ignore=True).fits(told)


def test_rules_look_into_unassigned_groups_of_converted_images(tmp_path: Path) -> None:
    image = pydicom.dcmread(make_enhanced(tmp_path / "in" / "enhanced.dcm"))
    shared = image.SharedFunctionalGroupsSequence[0]
    shared.UnassignedSharedConvertedAttributesSequence = shared.CTReconstructionSequence
    del shared.CTReconstructionSequence
    image.save_as(tmp_path / "converted.dcm")
    assert attribute_values(tmp_path / "converted.dcm", ["ConvolutionKernel"]) == {"ConvolutionKernel": ("B30f",)}


def test_the_first_rule_that_fits_decides(tmp_path: Path) -> None:
    rules = load(tmp_path)
    assert rules.rule_for({"ConvolutionKernel": ("B30f",)}) == 0
    assert rules.rule_for({"ConvolutionKernel": ("Hr40",)}) == 1
    assert rules.keywords == {"ConvolutionKernel"}


def test_a_peer_is_title_and_address_together(tmp_path: Path) -> None:
    peer = load(tmp_path).accept[0]
    assert peer.allows("CT1 ", "10.4.200.9")
    assert peer.allows("CT1", "::ffff:10.1.2.3")
    assert not peer.allows("CT2", "10.1.2.3")
    assert not peer.allows("CT1", "10.1.2.4")


def test_waits_double_up_to_the_longest() -> None:
    retry = Retry(first_s=10, longest_s=60)
    assert [retry.wait_s(attempts) for attempts in (1, 2, 3, 4, 1000)] == [10, 20, 40, 60, 60]


def test_the_documents_example_is_valid(tmp_path: Path) -> None:
    example = re.search(r"```yaml\n(.*?)```", (ROOT / "docs/reference/dicom-node.md").read_text(), re.DOTALL)
    (tmp_path / "rules.yaml").write_text(example[1])
    rules = load_rules(tmp_path / "rules.yaml")
    assert rules.rule_for({"SeriesDescription": ("A bone 2",)}) == 0
    assert rules.rule_for({"ConvolutionKernel": ("Br40",), "SliceThickness": ("1.5",)}) == 1
    assert rules.rule_for({}) == 2
    # The values shown are the defaults.
    shown = Rules(**GOOD | {"host": "127.0.0.1"})
    for name in ("ae_title", "port", "complete", "retry", "limits", "status_port", "remember_days", "device"):
        assert getattr(rules, name) == getattr(shown, name), name


def test_the_documents_inline_example_keeps_what_waits_for_commitment(tmp_path: Path) -> None:
    page = (ROOT / "docs/reference/dicom-node.md").read_text()
    example = re.search(r"## Inline use.*?```yaml\n(.*?)```", page, re.DOTALL)
    (tmp_path / "rules.yaml").write_text(f"spool: {tmp_path}\n{example[1]}")
    rules = load_rules(tmp_path / "rules.yaml")
    urgent, others, rest = rules.rules
    assert [output.strength for output in urgent.made] == [0.5, 1]
    assert rules.keeps_received(urgent)
    assert rules.keeps_received(others)
    assert rest.ignore
    assert rest.originals_to == ("pacs",)


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ({"outputs": [{"strength": 1}], "strength": 0.5}, "inside them only"),
        ({"outputs": [{"strength": 1}, {"strength": 1}]}, "two of them are the same"),
        ({"originals_to": ["nowhere"]}, "which is no destination"),
        ({"priority": "stat"}, "priority"),
        ({"delete_received_after": "never"}, "delete_received_after"),
    ],
)
def test_wrong_settings_of_inline_use_are_named(tmp_path: Path, rule: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        load(tmp_path, rules=[{"send_to": ["pacs"]} | rule])
