"""The list of verbs: each has settings and an example, and words are split at the verb."""

import pytest

from iak.jobs.verbs import GROUPS, VERBS, spec_class, split_verb, unknown_verb
from iak.schemas.base import Spec


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "doctor"])
def test_a_verb_has_settings_and_an_example_of_itself(verb):
    assert issubclass(spec_class(verb), Spec)
    assert VERBS[verb].example.startswith(f"iak {verb}")
    assert not VERBS[verb].help.endswith(".")


@pytest.mark.parametrize("verb", VERBS)
def test_what_needs_no_name_is_a_setting(verb):
    if VERBS[verb].positional:
        assert set(VERBS[verb].positional) <= set(spec_class(verb).model_fields)


def test_the_first_word_of_a_long_verb_is_a_group():
    assert {verb.split()[0] for verb in VERBS if " " in verb} == set(GROUPS)


@pytest.mark.parametrize(
    ("words", "verb", "rest"),
    [
        ([], "", []),
        (["show", "R1"], "show", ["R1"]),
        (["bench", "scaling", "--smoke"], "bench scaling", ["--smoke"]),
        (["bench"], "bench", []),
        (["zork", "x=1"], "zork", ["x=1"]),
    ],
)
def test_words_are_split_at_the_verb(words, verb, rest):
    assert split_verb(words) == (verb, rest)


def test_a_word_that_is_no_verb_is_answered_by_its_neighbours_or_by_all_verbs():
    assert unknown_verb("finetun").startswith(
        "'finetun' is not a verb of iak; did you mean finetune"
    )
    assert all(verb in unknown_verb("zzz") for verb in VERBS)
