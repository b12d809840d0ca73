"""``crawler help TOPIC`` tells of everything there is, and of nothing else."""

import re
from pathlib import Path
from typing import get_args

import pytest
import yaml
from support.programs import command

from crawler.cli import help_topics
from crawler.core.errors import REASONS, Exit
from crawler.core.model import OutcomeName
from crawler.output.results import FIELDS
from crawler.service import api


def test_the_topics_name_exactly_what_there_is():
    assert tuple(help_topics.FIELDS) == ("schema", *FIELDS)
    assert tuple(help_topics.OUTCOMES) == get_args(OutcomeName)
    assert tuple(help_topics.EXITS) == tuple(Exit)
    assert all(reason in help_topics._outcomes() for reasons in REASONS.values() for reason in reasons)


@pytest.mark.parametrize("topic", help_topics.TOPICS)
def test_a_topic_is_told_and_fits(topic):
    done = command("help", topic)
    assert done.returncode == 0 and done.stdout and not done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 120


def test_a_command_is_a_topic_and_a_wrong_name_is_told():
    assert "usage: crawler results" in command("help", "results").stdout
    wrong = command("help", "outcome")
    assert (wrong.returncode, "did you mean outcomes?" in wrong.stderr) == (2, True)
    assert "exit-codes" in wrong.stderr


def test_help_on_rows_names_every_filter_of_the_api():
    described = yaml.safe_load((Path(api.__file__).parent / "openapi.yaml").read_text())
    parameters = described["paths"]["/v1/results"]["get"]["parameters"]
    filters = {one["name"] for one in parameters if one.get("description", "").startswith(("Only rows", "Likewise"))}
    named = help_topics.TOPICS["rows"][0]().rsplit("?", 1)[1]
    assert set(re.findall(r"(\w+)=", named)) == filters | {"cursor"}
