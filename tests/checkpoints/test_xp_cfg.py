"""xp.cfg: interpolations are resolved; unresolved ones are refused when their value is needed."""

import pytest

from magnet_cli.checkpoints import xp_cfg
from magnet_cli.errors import CheckpointError

TEXT = """
sample_rate: 32000
encodec: {causal: false, name: "codec-${sample_rate}-${nowhere}"}
seanet:
  causal: ${encodec.causal}
  ratios: [8, "${seanet.last}"]
  last: 4
  alpha: 1
copy: ${seanet}
dir: /checkpoint/${oc.env:USER}/x
near: ${.sibling}
"""


def test_interpolations_keep_the_type_of_what_they_name():
    settings = xp_cfg.parse(TEXT)
    assert settings["seanet"] == {"causal": False, "ratios": [8, 4], "last": 4, "alpha": 1}
    assert settings["copy"] == settings["seanet"]
    assert settings["encodec"]["name"] == "codec-32000-${nowhere}"


def test_what_cannot_be_resolved_stays_text():
    settings = xp_cfg.parse(TEXT)
    assert settings["dir"] == "/checkpoint/${oc.env:USER}/x"
    assert settings["near"] == "${.sibling}"


def test_value_reads_a_dotted_path():
    settings = xp_cfg.parse(TEXT)
    assert xp_cfg.value(settings, "seanet.last", int) == 4
    assert xp_cfg.value(settings, "seanet.alpha", float) == 1.0
    assert xp_cfg.value(settings, "seanet.causal", bool) is False


@pytest.mark.parametrize(
    ("path", "kind", "names"),
    [
        ("seanet.width", int, "seanet.width"),
        ("sample_rate.deeper", int, "sample_rate.deeper"),
        ("seanet.causal", int, "seanet.causal"),  # True is not 1
        ("near", int, "near"),
    ],
)
def test_value_names_what_is_missing_or_of_the_wrong_kind(path, kind, names):
    with pytest.raises(CheckpointError, match=names):
        xp_cfg.value(xp_cfg.parse(TEXT), path, kind)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: ${b}\nb: ${a}", "itself"),
        ("a: {b: '${a}'}", "itself"),
        ("- 1\n- 2", "list"),
        ("a: [", "YAML"),
        ("a: !!python/object/apply:os.system ['true']", "YAML"),
    ],
)
def test_broken_text_is_refused(text, says):
    with pytest.raises(CheckpointError, match=says):
        xp_cfg.parse(text)
