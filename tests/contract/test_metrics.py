"""Figures in the text form of a scrape."""

from __future__ import annotations

import math

import pytest

from openkcm.contract import metrics


def test_a_figure_is_shown_with_its_help_and_kind():
    text = metrics.render({metrics.figure("openkcm_node_cursor", lane="routine"): 7})
    assert text.splitlines()[1:] == ["# TYPE openkcm_node_cursor gauge", 'openkcm_node_cursor{lane="routine"} 7']


def test_what_is_not_in_the_catalogue_cannot_be_shown():
    with pytest.raises(KeyError, match="openkcm_invented"):
        metrics.render({"openkcm_invented": 1})
    with pytest.raises(KeyError):
        metrics.render({"openkcm_node_workers_bucket": 1})
    with pytest.raises(ValueError, match="labels"):
        metrics.figure("openkcm_node_cursor")


def test_labels_are_escaped_and_numbers_written_as_the_text_form_asks():
    name = metrics.figure("openkcm_node_alarms_total", alarm='a"b\\c\nd')
    assert name == 'openkcm_node_alarms_total{alarm="a\\"b\\\\c\\nd"}'
    assert metrics.render({"openkcm_node_beat_age_seconds": math.inf}).endswith(" +Inf\n")
    assert metrics.render({"openkcm_node_beat_age_seconds": 0.25}).endswith(" 0.25\n")
