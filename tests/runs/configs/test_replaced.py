from medi_monai.runs.configs.replaced import error_of_replaced, replaced_values


def failing(value):
    return value.gone


def raised(value):
    try:
        failing(value)
    except AttributeError as cause:
        wrapped = RuntimeError("Failed to evaluate ConfigExpression")
        wrapped.__cause__ = cause
        return wrapped


def test_components_and_expressions_of_the_user_are_replaced_and_plain_settings_are_not():
    config = {"seed": "$1/0", "max_steps": 3, "trainer": {"_target_": "a.B"}, "network": 5, "bundle_root": "."}
    assert replaced_values(config, {"seed", "max_steps", "trainer"}, {"seed", "max_steps"}) == {
        "seed": "$1/0",
        "trainer": {"_target_": "a.B"},
    }


def test_a_run_that_fails_with_what_was_replaced_says_what_why_and_where():
    message = str(error_of_replaced(raised(5), {"trainer": 5}))
    assert message.startswith(
        "the run fails with AttributeError: 'int' object has no attribute 'gone' (test_replaced.py, line 5, in failing)"
    )
    assert "trainer = 5" in message


def test_a_run_of_which_nothing_was_replaced_keeps_its_traceback():
    assert error_of_replaced(raised(5), {}) is None


def test_a_long_value_is_cut():
    assert len(str(error_of_replaced(raised("x" * 9000), {"trainer": ["x" * 9000]}))) < 900
