"""Product names: every field is found, versions of one image are told by their sensing time, anything else is refused."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest

from stormbench.cloudmask.names import parse
from stormbench.core.errors import UserError

NAME = "S3A_SL_1_RBT____20190101T101502_20190101T101802_20190102T153000_0179_039_374_2340_LN2_O_NT_003"
FRAMELESS = "S3B_SL_1_RBT____20170602T090746_20170602T091046_20181003T205946_0179_018_207______LR1_R_NR_005"


def test_fields_are_those_of_the_name() -> None:
    name = parse(NAME)
    assert (name.mission, name.frame, name.centre, name.class_, name.timeliness, name.baseline) == ("S3A", "2340", "LN2", "O", "NT", "003")
    assert (name.duration_s, name.cycle, name.relative_orbit, name.baseline_number) == (179, 39, 374, 3)
    assert name.start == datetime(2019, 1, 1, 10, 15, 2, tzinfo=timezone.utc)
    assert (name.stop, name.created) == (
        datetime(2019, 1, 1, 10, 18, 2, tzinfo=timezone.utc),
        datetime(2019, 1, 2, 15, 30, tzinfo=timezone.utc),
    )
    assert name.text == NAME


def test_product_without_a_frame_number_is_understood() -> None:
    name = parse(FRAMELESS)
    assert (name.mission, name.relative_orbit, name.frame, name.centre, name.baseline_number) == ("S3B", 207, "____", "LR1", 5)


@pytest.mark.parametrize("ending", ["", ".SEN3", ".hdf", ".zip", ".SEN3.zip", ".SEN3/", ".h5"])
@pytest.mark.parametrize("folder", ["", "a/b.SEN3/"])
def test_endings_and_folders_do_not_matter(ending: str, folder: str) -> None:
    assert parse(f"{folder}{NAME}{ending}") == parse(NAME)


def test_versions_of_one_image_share_their_sensing_time() -> None:
    other = NAME.replace("20190102T153000", "20200505T000000").replace("_003", "_004")
    assert parse(other).sensing == parse(NAME).sensing
    assert parse(NAME.replace("S3A", "S3B")).sensing != parse(NAME).sensing


@pytest.mark.parametrize(
    "wrong",
    ["", "notes", NAME[:-1], NAME + "x", NAME.replace("SL_1_RBT", "SL_2_LST"), NAME.replace("S3A", "S2A"), NAME.replace("0179", "179")],
)
def test_other_names_are_refused(wrong: str) -> None:
    with pytest.raises(UserError, match="not the name of an SLSTR level 1 product"):
        parse(wrong)


def test_time_that_is_no_date_is_refused() -> None:
    with pytest.raises(UserError, match="is no date"):
        parse(NAME.replace("20190101T101502", "20191301T101502"))
