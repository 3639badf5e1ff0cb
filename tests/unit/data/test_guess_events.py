"""Tasks of a column of events: what users did is 1, what they saw is 0."""

import numpy as np
import pyarrow as pa
import pytest

from iak.pipeline.data.guess_events import guess_codes, guess_events
from iak.pipeline.data.guess_labels import guess_leaks


def drawn(*events, name="event_type", count=2_000):
    """Rows whose events are the rarer the later they are named."""
    odds = 0.65 ** np.arange(len(events))
    draw = np.random.default_rng(0)
    return pa.table({name: draw.choice(events, count, p=odds / odds.sum())})


def tasks(*events, **changes):
    guesses = guess_events(drawn(*events, **changes), scale=10)
    return {guess.name: guess.positive for guess in guesses}


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        (("pv", "cart", "fav", "buy"), {"cart": ("cart",), "fav": ("fav",), "buy": ("buy",)}),
        (("view", "cart", "purchase"), {"cart": ("cart",), "purchase": ("purchase",)}),
        (("view", "addtocart", "transaction"),
         {"addtocart": ("addtocart",), "transaction": ("transaction",)}),
        (("product_view", "view_cart", "add_to_cart", "remove_from_cart"),
         {"add_to_cart": ("add_to_cart",)}),
        (("page_view", "view_item", "session_start", "add_to_cart", "begin_checkout",
          "add_payment_info", "purchase", "payment_failed"),
         {"add_to_cart": ("add_to_cart",), "purchase": ("purchase",),
          "checkout": ("add_payment_info", "begin_checkout")}),
        (("Product Viewed", "Product Added", "Order Completed"),
         {"Product Added": ("Product Added",), "Order Completed": ("Order Completed",)}),
        (("clicks", "carts", "orders"), {"carts": ("carts",), "orders": ("orders",)}),
        (("view", "add_to_wishlist"), {"add_to_wishlist": ("add_to_wishlist",)}),
        (("VIEW", "Purchase", "order"), {"purchase": ("Purchase", "order")}),
        (("click", "cart", "buy"), {"cart": ("cart",), "buy": ("buy",)}),
        (("impression", "like", "dislike", "hide"), {"like": ("like",)}),
        (("impression", "click"), {None: ("click",)}),
        (("item image", "clickout item", "change of sort order"),
         {"clickout item": ("clickout item",)}),
    ],
)  # fmt: skip
def test_what_users_did_is_a_task_and_what_they_saw_is_none(events, expected):
    assert tasks(*events) == expected


def test_rows_of_events_have_no_conversion_and_a_click_only_beside_impressions():
    kinds = {g.kind for g in guess_events(drawn("page_view", "click", "order"))}
    assert kinds == {"binary"}
    (click,) = guess_events(drawn("shown", "click"))
    assert click.kind == "click"
    (click,) = guess_events(drawn("pv", "click"))
    assert click.kind == "binary", "a page view may be a click itself"


def test_an_event_of_unknown_meaning_is_named():
    (like, buy) = guess_events(drawn("item_view", "item_like", "offer_make", "buy_comp"))
    for guess in (like, buy):
        assert guess.why.endswith("buy_comp; 0 too, since their meaning is not known: offer_make")
    (cart,) = guess_events(drawn("view", "cart"))
    assert cart.why == "a row is one event: view, cart"


def test_the_commonest_task_comes_first_with_its_positives():
    rows = drawn("view", "cart", "buy")
    first, second = guess_events(rows)
    words = rows.column("event_type").to_pylist()
    assert (first.positives, second.positives) == (words.count("cart"), words.count("buy"))
    assert first.of(rows).sum() == first.positives
    assert "view, cart, buy" in first.why


@pytest.mark.parametrize(
    ("name", "events"),
    [
        ("scene", ("search", "cart", "detail")),  # where a row was, and not what it was
        ("type", ("view", "cart", "gold")),
        ("previous_event", ("view", "cart", "buy")),
        ("event_type", ("view", "search")),
    ],
)
def test_other_columns_of_words_are_no_events(name, events):
    assert tasks(*events, name=name) == {}


@pytest.mark.parametrize("name", ["_c3", "3", "f_3", "pv"])
def test_events_tell_a_column_without_a_name(name):
    assert tasks("pv", "buy", name=name) == {"buy": ("buy",)}
    assert tasks("pv", "buy", "gold", name=name) == {}
    assert tasks("pv", "buy", name="page") == {}


def test_unknown_words_beside_known_ones_are_no_answer():
    assert tasks("view", "zoom", "cart", name="action") == {"cart": ("cart",)}


def test_an_event_of_few_rows_has_no_task_unless_the_log_is_larger():
    rows = drawn("view", "cart", "buy", count=200)
    assert [g.name for g in guess_events(rows)] == []
    assert [g.name for g in guess_events(rows, scale=100)] == ["cart", "buy"]


@pytest.mark.parametrize("codes", [(1, 2, 3, 4), ("a", "b", "c", "d")])
def test_codes_are_one_task_of_all_but_the_commonest(codes):
    rows = drawn(*codes, name="behavior_type")
    (guess,) = guess_codes(rows)
    assert guess.positive == codes[1:]
    assert "say here which mean an answer" in guess.reading
    assert guess.of(rows).sum() == guess.positives
    assert guess_codes(drawn(*codes, name="slot")) == ()


def test_a_column_that_knows_one_of_the_events_is_a_leak():
    rows = drawn("view", "cart", "buy")
    paid = np.where(np.array(rows.column("event_type").to_pylist()) == "buy", 1.0, np.nan)
    rows = rows.append_column("paid", pa.array(paid, from_pandas=True))
    (leak,) = guess_leaks(rows, guess_events(rows))
    assert leak.column == "paid"
    assert "buy" in leak.why


def test_codes_of_a_column_that_is_named_type_alone_come_last():
    codes = np.arange(900) % 10 // 8
    (guess,) = guess_codes(pa.table({"type": codes + (np.arange(900) % 30 == 29)}))
    assert (guess.column, guess.positive, guess.is_unsure) == ("type", (1, 2), True)
    assert guess_codes(pa.table({"type": ["film", "series", "short"] * 300})) == ()
    assert guess_codes(pa.table({"item_type": np.arange(900) % 3})) == ()
