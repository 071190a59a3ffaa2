"""Recipes keep what they promise: shares of domains, shares of long documents, and no more than
there is.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assets.domains import MIXTURES
from assets.mixed_dataset import choose, in_training_order
from assets.recipes import (
    MixedDatasetConfig,
    Mixing,
    Pieces,
    Recipe,
    cut_documents,
    domain_weights,
    fill,
    keyed_order,
    solve,
)
from assets.token_demand import check_names
from core.errors import UserError

WEIGHTS = {"book": 0.2, "web": 0.8}
LONG = {"book": 0.9, "web": 0.3}


def pieces(lengths: list[int]) -> Pieces:
    """Whole documents of these lengths, with ids 1, 2, 3 and so on."""
    return cut_documents(
        np.arange(1, len(lengths) + 1, dtype=np.uint64),
        np.arange(len(lengths)),
        np.array(lengths, np.int64),
        10**9,
    )


@given(st.lists(st.integers(1, 50), min_size=1, max_size=20), st.integers(2, 15))
def test_cutting_keeps_every_token_once_in_order(lengths: list[int], cut: int) -> None:
    identities = np.arange(len(lengths), dtype=np.uint64)
    cuts = cut_documents(identities, np.arange(len(lengths)), np.array(lengths, np.int64), cut)
    seen = [
        (row, token)
        for row, start, stop in zip(cuts.document, cuts.start, cuts.stop, strict=True)
        for token in range(start, stop)
    ]
    assert seen == [(row, token) for row, length in enumerate(lengths) for token in range(length)]
    assert cuts.length.max() <= cut


def mixing(
    recipe: Recipe, tokens: int = 1000, weights: str | dict[str, float] | None = None
) -> Mixing:
    """The recipe with the world's weights and a budget."""
    return Mixing(
        recipe=recipe, seed=0, weights=weights or WEIGHTS, token_budget=tokens, long_over=10
    )


def supply(passes: float = 100) -> dict[tuple[str, bool], int]:
    """So many times the budget of 1,000 in each domain, divided as LONG says."""
    return {
        (domain, is_long): round(1000 * passes * (share if is_long else 1 - share))
        for domain, share in LONG.items()
        for is_long in (True, False)
    }


def test_per_source_keeps_each_domains_share_and_lifts_the_long_share_inside_it() -> None:
    wanted = solve(mixing(Recipe(cut=100, long_share=0.7)), WEIGHTS, supply())
    assert wanted["web", True] + wanted["web", False] == pytest.approx(800)
    assert wanted["web", True] == pytest.approx(560)
    assert wanted["book", True] == pytest.approx(180), (
        "a domain already above the target keeps its own share"
    )


def test_pooled_upsampling_reaches_the_share_in_all_and_lets_domains_drift() -> None:
    wanted = solve(mixing(Recipe(cut=100, long_share=0.7, across_domains=True)), WEIGHTS, supply())
    assert sum(wanted.values()) == pytest.approx(1000)
    assert wanted["book", True] + wanted["web", True] == pytest.approx(700)
    assert wanted["book", True] + wanted["book", False] > 200


@given(
    st.one_of(
        st.fixed_dictionaries({"long_share": st.floats(0, 1)}),
        st.fixed_dictionaries({"keep_ratio": st.floats(0.01, 1)}),
    ),
    st.booleans(),
)
def test_what_is_wanted_sums_to_the_token_budget(target: dict[str, float], across: bool) -> None:
    wanted = solve(mixing(Recipe(cut=100, across_domains=across, **target)), WEIGHTS, supply())
    assert sum(wanted.values()) == pytest.approx(1000)
    assert min(wanted.values()) >= -1e-9


def test_a_raised_domain_takes_its_weight_and_the_others_keep_their_proportions() -> None:
    recipe = mixing(
        Recipe(cut=100, raised={"book": 0.6}), weights={"book": 0.2, "web": 0.6, "code": 0.2}
    )
    weights = domain_weights(recipe, {"book": 1, "web": 1, "code": 1})
    assert weights == pytest.approx({"book": 0.6 / 1.4, "web": 0.6 / 1.4, "code": 0.2 / 1.4})


@pytest.mark.parametrize(
    "recipe", [Recipe(cut=100, raised={"bok": 0.6}), Recipe(cut=100, weights={"bok": 9.0})]
)
def test_a_domain_that_is_not_there_is_refused_as_weight_and_as_raised(recipe: Recipe) -> None:
    weights = {**WEIGHTS, **(recipe.weights if isinstance(recipe.weights, dict) else {})}
    with pytest.raises(UserError, match=r"no domain bok\. There are: book, web"):
        domain_weights(mixing(recipe, weights=weights), {"book": 1, "web": 1})


def test_a_strange_domain_is_refused_by_the_first_stage_even_where_all_is_read() -> None:
    shared = MixedDatasetConfig(
        token_budget=1000,
        long_over=10,
        recipes={
            "good": Recipe(cut=100, weights="natural"),
            "bad": Recipe(cut=100, weights={"book": 0.7, "web": 0.3, "wb": 9}),
        },
    )
    with pytest.raises(UserError, match=r"mixed_dataset\.recipes\.bad: .*no domain wb"):
        check_names(shared, ["book", "web"])


def test_natural_weights_are_the_tokens_that_are_there() -> None:
    assert domain_weights(mixing(Recipe(cut=100), weights="natural"), {"book": 30, "web": 10}) == {
        "book": 0.75,
        "web": 0.25,
    }


def test_a_share_out_of_reach_is_refused_with_what_can_be_reached() -> None:
    little = {("book", True): 900, ("book", False): 100, ("web", True): 120, ("web", False): 880}
    with pytest.raises(
        UserError,
        match=r"web: 560 tokens of documents over 10 .* there are 120 and 880, used at most "
        r"4 times.*token_budget 857.*long share of 0.000 to 0.600",
    ):
        solve(mixing(Recipe(cut=100, long_share=0.7)), WEIGHTS, little)
    wanted = solve(
        mixing(Recipe(cut=100, long_share=0.7, as_far_as_possible=True)), WEIGHTS, little
    )
    assert wanted["web", True] == pytest.approx(480) and wanted["web", False] == pytest.approx(320)
    reached = solve(mixing(Recipe(cut=100, long_share=0.6)), WEIGHTS, little)
    assert reached["web", True] == pytest.approx(480)


def test_two_ways_to_say_one_target_are_refused_together() -> None:
    with pytest.raises(ValueError, match="set one"):
        Recipe(cut=100, long_share=0.7, keep_ratio=0.1)


def test_a_keep_ratio_gives_the_distribution_of_the_released_procedure() -> None:
    """Theirs: drop documents under 4,096 tokens with probability 0.9, fill each domain's share of
    the budget from a shuffled stream. Lengths are SlimPajama's medians, log-normal, at one
    sixteenth; means over 20 draws of each.
    """
    draw = np.random.default_rng(0)
    medians = {
        "commoncrawl": 1066,
        "c4": 315,
        "github": 520,
        "wikipedia": 409,
        "book": 121_602,
        "arxiv": 14_565,
        "stackexchange": 507,
    }
    corpus = {
        domain: np.minimum(draw.lognormal(np.log(median / 16), 1.2, 60_000), 131_072 / 16).astype(
            np.int64
        )
        + 1
        for domain, median in medians.items()
    }
    budget, threshold, weights = 1_000_000, 256, MIXTURES["slimpajama"]
    weights = {domain: weight / sum(weights.values()) for domain, weight in weights.items()}
    candidates = {domain: pieces(list(lengths)) for domain, lengths in corpus.items()}
    ours, theirs = [], []
    for seed in range(20):
        settings = Mixing(
            recipe=Recipe(cut=10**6, keep_ratio=0.1, max_repeats=1),
            seed=seed,
            weights=weights,
            token_budget=budget,
            long_over=threshold,
        )
        chosen, _ = choose(settings, candidates, weights)
        ours.append(
            {
                domain: np.concatenate(
                    [chosen[domain, is_long].length for is_long in (True, False)]
                )
                for domain in corpus
            }
        )
        theirs.append({})
        for domain, lengths in corpus.items():
            stream = draw.permutation(lengths)
            kept = stream[(stream > threshold) | (draw.random(len(stream)) < 0.1)]
            theirs[-1][domain] = kept[
                : np.searchsorted(np.cumsum(kept), weights[domain] * budget) + 1
            ]
    edges = [0, 32, 64, 128, 256, 512, 1024, 2048, 4096, 10**6]
    for domain in corpus:
        share, expected_share = (
            np.mean([run[domain].sum() / budget for run in runs]) for runs in (ours, theirs)
        )
        assert abs(share - weights[domain]) < 0.003 and abs(share - expected_share) < 0.005
        got, expected = (
            np.mean(
                [
                    np.histogram(run[domain], edges, weights=run[domain])[0] / run[domain].sum()
                    for run in runs
                ],
                axis=0,
            )
            for runs in (ours, theirs)
        )
        assert np.abs(got - expected).sum() / 2 < 0.06, (domain, got.round(3), expected.round(3))


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.floats(0.05, 2.9))
def test_filling_comes_within_half_a_document_and_repeats_no_more_than_allowed(
    lengths: list[int], passes: float
) -> None:
    budget = passes * sum(lengths)
    chosen = fill(pieces(lengths), budget, 3, "web", 0, "web")
    assert abs(int(chosen.length.sum()) - budget) <= max(lengths) / 2 + 1e-6
    assert np.bincount(chosen.document).max(initial=0) <= 3


def test_what_the_corpus_cannot_give_is_refused_with_the_most_it_can() -> None:
    with pytest.raises(
        UserError, match=r"web, long documents: 100 tokens wanted, but 2 pieces .* give 60"
    ):
        fill(pieces([10, 20]), 100, 2, "web, long documents", 0)


@given(st.permutations(range(8)))
def test_the_draw_depends_on_documents_and_not_on_where_they_lie(order: list[int]) -> None:
    documents = pieces([5, 6, 7, 8, 9, 10, 11, 12])
    shuffled = documents.take(np.array(order))
    first = documents.identity[keyed_order(documents, 0, "x")]
    second = shuffled.identity[keyed_order(shuffled, 0, "x")]
    assert first.tolist() == second.tolist()


def test_copies_of_a_piece_are_scattered_and_move_no_other_piece() -> None:
    whole = pieces([10] * 200)
    repeated = fill(whole, 10 * 500, 3, "web", 0, "web")
    assert (
        sorted(np.unique(repeated.document, return_counts=True)[1].tolist())
        == [2] * 100 + [3] * 100
    )
    index = in_training_order({("web", True): repeated}, 0)
    document = index["document"].to_numpy()
    # 400 pairs of copies among 500 places: by chance 400 * 2 / 500 of them are neighbours.
    assert (document[1:] == document[:-1]).sum() < 10
    once = in_training_order({("web", True): fill(whole, 10 * 200, 1, "web", 0, "web")}, 0)[
        "document"
    ].to_numpy()
    firsts = [number for number in keyed_order(repeated, 0, "order").tolist() if number < 200]
    assert repeated.document[firsts].tolist() == once.tolist()


def test_one_text_in_two_domains_is_no_neighbour_of_itself() -> None:
    whole = pieces([10] * 200)
    index = in_training_order({("web", True): whole, ("book", True): whole}, 0)
    document = index["document"].to_numpy()
    assert sorted(document.tolist()) == sorted([*range(200)] * 2)
    assert (document[1:] == document[:-1]).sum() < 10
    assert index.equals(in_training_order({("book", True): whole, ("web", True): whole}, 0)), (
        "params.yaml's order"
    )


def test_without_copies_the_order_is_the_one_it_always_was() -> None:
    cut = cut_documents(np.arange(1, 9, dtype=np.uint64), np.arange(8), np.arange(5, 13), 8)
    assert keyed_order(cut, 0, "order").tolist() == [2, 1, 7, 9, 0, 8, 5, 6, 4, 11, 3, 10]
