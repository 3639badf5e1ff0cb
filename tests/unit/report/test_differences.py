from iak.pipeline.report.charts import Scale
from iak.pipeline.report.differences import difference_of

SCALE = Scale(-1.0, 1.0, 0, 100)


def test_a_difference_is_a_number_a_text_an_interval_and_a_mark():
    shown = difference_of("ctr", (0.25, -0.5, 0.75), SCALE, digits=2)
    assert (shown.of, shown.value) == ("ctr", 0.25)
    assert shown.text == "+0.25"
    assert shown.interval == "[\N{MINUS SIGN}0.50, +0.75]"
    assert (shown.mark.low, shown.mark.value, shown.mark.high) == (25, 62.5, 87.5)
    assert shown.mark.kind == "unclear"


def test_less_is_better_of_a_loss():
    below = (-0.4, -0.6, -0.2)
    assert difference_of("auc", below, SCALE).mark.kind == "worse"
    assert difference_of("logloss", below, SCALE, is_better_below=True).mark.kind == "better"


def test_a_missing_difference_has_a_dash_and_no_mark():
    shown = difference_of("ctr", None, SCALE)
    assert (shown.value, shown.interval, shown.mark) == (None, "", None)
    assert shown.text == "\N{EN DASH}"
