from hypothesis import given
from hypothesis import strategies as st

from enginebay.backends.stop_strings import StopMatch, StopStrings

letters = st.text(alphabet="ab", max_size=12)
stop_lists = st.lists(st.text(alphabet="ab", min_size=1, max_size=4), min_size=1, max_size=3)


def stream(pieces, stops, *, include=False):
    """Everything delivered, the stop string that ended it, and how many pieces were read."""
    matcher = StopStrings(stops, include_in_output=include)
    delivered = []
    for number, piece in enumerate(pieces, 1):
        step = matcher.push(piece)
        if isinstance(step, StopMatch):
            return "".join(delivered) + step.text, step.stop, number
        delivered.append(step)
    return "".join(delivered) + matcher.flush(), None, len(pieces)


def by_search(text, stops, include):
    """The same by looking at every prefix of the whole text."""
    for end in range(1, len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            stop = max(complete, key=len)
            return text[: end if include else end - len(stop)], stop
    return text, None


@given(pieces=st.lists(letters, max_size=8), stops=stop_lists, include=st.booleans())
def test_a_streamed_text_ends_where_a_search_in_the_whole_text_ends_it(pieces, stops, include):
    assert stream(pieces, stops, include=include)[:2] == by_search("".join(pieces), stops, include)


@given(pieces=st.lists(letters, max_size=8), stops=stop_lists)
def test_what_is_kept_back_is_the_longest_end_that_could_still_become_a_stop_string(pieces, stops):
    matcher = StopStrings(stops, include_in_output=False)
    text, num_delivered = "", 0
    for piece in pieces:
        step = matcher.push(piece)
        if isinstance(step, StopMatch):
            return
        text += piece
        num_delivered += len(step)
        could_become = [
            n for n in range(len(text) + 1) if any(s != text[-n:] and s.startswith(text[-n:]) for s in stops)
        ]
        longest = max((n for n in could_become if n), default=0)
        assert len(text) - num_delivered == longest


def test_a_stop_string_over_several_pieces_is_never_shown():
    assert stream(["one ", "EN", "D", " two"], ["END"]) == ("one ", "END", 3)


def test_a_stop_string_inside_one_piece_cuts_it():
    assert stream(["one END two"], ["END"]) == ("one ", "END", 1)


def test_a_beginning_that_comes_to_nothing_is_delivered_late_but_whole():
    matcher = StopStrings(["END!"], include_in_output=False)
    assert matcher.push("xEND") == "x"
    assert matcher.push("ING") == "ENDING"


def test_an_included_stop_string_stands_at_the_end_and_nothing_after_it():
    assert stream(["one EN", "D two"], ["END"], include=True) == ("one END", "END", 2)


def test_the_stop_string_that_is_complete_first_wins_and_of_two_at_once_the_longer():
    assert stream(["abcd"], ["abcd", "bc"]) == ("a", "bc", 1)
    assert stream(["xab"], ["b", "ab"]) == ("x", "ab", 1)


def test_a_match_that_ends_in_protected_text_does_not_count_but_one_that_only_begins_there_does():
    matcher = StopStrings(["END"], include_in_output=False)
    assert matcher.push("END E", may_stop=False) == "END "
    match = matcher.push("ND!")
    assert match == StopMatch("END", "")


def test_a_stop_string_that_repeats_itself_is_found_after_a_false_start():
    assert stream(list("ababac"), ["abac"]) == ("ab", "abac", 6)


def test_without_stop_strings_text_passes_untouched():
    assert stream(["a", "", "b"], []) == ("ab", None, 3)


def test_a_long_stop_string_costs_constant_work_for_a_character():
    stop = "a" * 50_000 + "b"
    delivered, matched, _ = stream(["a" * 100] * 1000, [stop])
    assert matched is None
    assert delivered == "a" * 100_000
