"""Canonical conversations: what goes in comes out, and nothing is lost on the way."""

from hypothesis import assume, given
from hypothesis import strategies as st

from prudent.data import load_preferences
from prudent.data._messages import ROLES, split_conversations, split_texts

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda text: not text.isspace())
turns = st.lists(st.fixed_dictionaries({"role": st.sampled_from(ROLES), "content": texts}), min_size=1, max_size=4)


def assistant(text):
    return [{"role": "assistant", "content": text}]


@given(prompt=texts, chosen=texts, rejected=texts)
def test_texts_become_single_messages(prompt, chosen, rejected):
    assume(chosen != rejected)
    pairs = load_preferences([{"prompt": prompt, "chosen": chosen, "rejected": rejected}])
    assert pairs.rows[0] == {
        "prompt": [{"role": "user", "content": prompt}],
        "chosen": assistant(chosen),
        "rejected": assistant(rejected),
        "row": 0,
    }


@given(prompt=turns, chosen=texts, rejected=texts, margin=st.floats(-5, 5), p_chosen=st.floats(0, 1))
def test_canonical_rows_stay_as_they_are(prompt, chosen, rejected, margin, p_chosen):
    assume(chosen != rejected)
    row = {"prompt": prompt, "chosen": assistant(chosen), "rejected": assistant(rejected)}
    row |= {"margin": margin, "p_chosen": p_chosen, "source": "s", "subset": None, "id": "a/1"}
    once = load_preferences([row])
    assert once.rows[0] == {**{key: value for key, value in row.items() if value is not None}, "row": 0}
    assert load_preferences(once.rows).rows[0] == once.rows[0]


@given(prompt=turns, chosen=texts, rejected=texts)
def test_explicit_implicit_and_repeated_prompts_agree(prompt, chosen, rejected):
    assume(chosen != rejected)
    explicit = {"prompt": prompt, "chosen": assistant(chosen), "rejected": assistant(rejected)}
    implicit = {"chosen": prompt + assistant(chosen), "rejected": prompt + assistant(rejected)}
    expected = load_preferences([explicit]).rows[0]
    assert load_preferences([implicit]).rows[0] == expected
    assert load_preferences([{"prompt": prompt, **implicit}]).rows[0] == expected


@given(shared=st.text(), chosen=st.text(), rejected=st.text())
def test_prompt_of_texts_is_a_common_beginning_that_cuts_no_word(shared, chosen, rejected):
    chosen, rejected = f"Say {shared}{chosen}", f"Say {shared}{rejected}"
    prompt, first, second = split_texts(chosen, rejected)
    assert (prompt + first, prompt + second) == (chosen, rejected)
    common = next(chosen[:end] for end in range(len(chosen), -1, -1) if rejected.startswith(chosen[:end]))
    word_start = max(end for end in range(1, len(common) + 1) if common[end - 1].isspace())
    assert prompt == (common[: word_start - 1] if common[word_start - 1] == " " else common[:word_start])


def test_prompt_of_texts_is_that_of_trl():
    assert split_texts("The sky is blue.", "The sky is green.") == ("The sky is", " blue.", " green.")
    assert split_texts("Q: a\nNo way", "Q: a\nYes") == ("Q: a\n", "No way", "Yes")
    assert split_texts("It is black", "It is blue") == ("It is", " black", " blue")  # TRL gives "It is bl"
    assert split_texts("a b", "a b c") == ("a", " b", " b c")


def test_conversations_part_at_their_first_difference():
    user, one, two = {"role": "user", "content": "q"}, assistant("a")[0], assistant("b")[0]
    assert split_conversations([user, one, user, one], [user, two, user, one]) == (
        [user],
        [one, user, one],
        [two, user, one],
    )


def test_other_keys_of_messages_are_left_out():
    message = {"role": "user", "content": "q", "name": "Ann", "tool_calls": None}
    pairs = load_preferences([{"prompt": [message], "chosen": "a", "rejected": "b"}])
    assert pairs.rows[0]["prompt"] == [{"role": "user", "content": "q"}]
