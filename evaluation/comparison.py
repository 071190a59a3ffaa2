"""Every model and recipe side by side on one page, each of our numbers beside the paper's for the same thing.

Reads the other reports and computes nothing anew, so it costs seconds and can be re-made at will. Means leave depth
100 % out, as the reports do. The paper's figures are constants here, with their place in the paper.
"""

from pathlib import Path
from typing import Any

import pandas as pd

from assets import page
from assets.stage import Config, UserError, command, output, read_json, read_params, write_json
from evaluation import plots

DATA = Path("data")
PAPER_NEEDLE = pd.DataFrame({
    "model (7B unless said; paper, table 3)": ["paper, 80K", "paper, 13B, 64K", "LongLoRA, 100K", "YaRN Mistral, 128K",
                                               "Together LLaMA-2, 32K", "GPT-4-Turbo, 128K"],
    "needle": [88.0, 90.0, 70.0, 57.4, 27.9, 87.1]})
PAPER_LOSS = {  # Fu et al. 2024, table 5: difference to "original" in nats, 0-4K and 4K-128K
    "per_source": {"c4": (.002, -.010), "commoncrawl": (.008, -.010), "stackexchange": (-.001, -.006),
                   "arxiv": (-.008, -.011), "wikipedia": (-.040, -.044), "book": (-.065, -.014),
                   "github": (-.008, .002)},
    "global": {"c4": (.008, -.010), "commoncrawl": (.010, -.006), "stackexchange": (.015, -.001),
               "arxiv": (-.020, -.016), "wikipedia": (-.020, -.040), "book": (-.140, -.018), "github": (.015, -.007)},
}


class ComparisonConfig(Config):
    """What the page sets beside what."""

    title: str = "Comparison"
    baseline: str = "original"
    """Losses are shown as differences to this model."""


class Names(Config):
    """The names of items that another section declares."""

    model_config = {**Config.model_config, "extra": "ignore"}
    models: dict[str, object] = {}
    recipes: dict[str, object] = {}
    domains: dict[str, object] = {}


def run() -> None:
    """Make data/comparison."""
    config = read_params("comparison", ComparisonConfig)
    models = list(read_params("checkpoint", Names).models)
    recipes = list(read_params("mixed_dataset", Names).recipes)
    domains = list(read_params("raw_corpus", Names).domains)
    if config.baseline not in models:
        raise UserError(f"comparison.baseline = {config.baseline!r}: known models are {', '.join(models)}.")
    summary = collect(models)
    with output("comparison") as out:
        cells = {name: pd.read_csv(DATA / "needle_report" / name / "cells.csv") for name in models}
        results = results_table(summary, trained_length(models))
        losses = pd.concat([pd.read_csv(DATA / "loss_report" / name / "loss.csv").assign(model=name)
                            for name in models])
        logs = {name: log for name in models
                if len(log := pd.read_csv(DATA / "checkpoint" / name / "log.csv"))}
        shares = pd.concat([pd.read_csv(DATA / "mixed_dataset" / name / "shares.csv").assign(recipe=name)
                            for name in recipes])
        lengths = pd.concat([pd.read_csv(DATA / "length_histograms" / name / "histogram.csv") for name in domains])
        write_tables(out.folder, results, summary, logs, shares, losses)
        draw(out.folder, summary, cells, logs, shares, lengths, trained_length(models))
        write_json(out.folder / "summary.json", summary)
        differences = loss_differences(losses, config.baseline)
        text = report(config, out.folder, results, shares, differences, summary)
        (out.folder / "report.html").write_text(text)
        out.metrics = {f"needle_{row['model']}": row["needle"] for row in results.to_dict("records")}


def collect(models: list[str]) -> dict[str, Any]:
    """The numbers of every model: {"base_context": C, "models": {name: {"needle", "loss", "tokens_trained", ...}}}."""
    facts = {name: read_json(DATA / "needle_report" / name / "record.json") for name in models}
    return {"base_context": next(iter(facts.values()))["base_context"], "models": {
        name: {"needle": read_json(DATA / "needle_report" / name / "needle.json"),
               "loss": read_json(DATA / "loss_report" / name / "loss.json"),
               "tokens_trained": facts[name]["tokens_trained"], "rope_base": facts[name]["rope_base"]}
        for name in models}}


def trained_length(models: list[str]) -> int:
    """The longest context any model was trained to, in tokens."""
    configs = (read_json(DATA / "checkpoint" / name / "config.json") for name in models)
    return max(int(config["max_position_embeddings"]) for config in configs)


def results_table(summary: dict[str, Any], trained: int) -> pd.DataFrame:
    """A row a model: needle means (0-100) within C, up to the trained length and beyond; gain; choice."""
    rows = []
    for name, model in summary["models"].items():
        needle = pd.DataFrame(model["needle"]).set_index("lengths")
        inside, to_trained = needle.index <= summary["base_context"], needle.index <= trained
        rows.append({"model": name, "tokens trained": model["tokens_trained"], "RoPE base": int(model["rope_base"]),
                     "needle": needle.loc[to_trained, "exact_match"].mean() * 100,
                     "within C": needle.loc[inside, "exact_match"].mean() * 100,
                     "C to trained": needle.loc[~inside & to_trained, "exact_match"].mean() * 100,
                     "beyond": needle.loc[~to_trained, "exact_match"].mean() * 100,
                     "gain": needle.loc[to_trained, "gain"].mean(),
                     "choice": needle.loc[to_trained, "choice"].mean() * 100})
    return pd.DataFrame(rows).round(3)


def loss_differences(losses: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """A row a band and model, a column a domain: the baseline's loss in nats, then differences to it."""
    table = losses.pivot_table(index=["band", "model"], columns="domain", values="loss", sort=False)
    base = table.xs(baseline, level="model")
    parts = []
    for band in dict.fromkeys(losses["band"]):
        own = table.loc[band] - base.loc[band]
        own.loc[baseline] = base.loc[band]
        order = [baseline, *[name for name in own.index if name != baseline]]
        parts.append(own.loc[order].reset_index().assign(band=band))
    joined = pd.concat(parts, ignore_index=True)
    return joined[["band", "model", *[column for column in joined if column not in ("band", "model")]]]


def write_tables(folder: Path, results: pd.DataFrame, summary: dict[str, Any], logs: dict[str, pd.DataFrame],
                 shares: pd.DataFrame, losses: pd.DataFrame) -> None:
    """The page's numbers as CSV, for `dvc plots` and for anyone's own tools."""
    needle = pd.concat([pd.DataFrame(model["needle"]).rename(columns={"lengths": "length"}).assign(model=name)
                        for name, model in summary["models"].items()])
    training = pd.concat([log.assign(model=name) for name, log in logs.items()]) if logs else pd.DataFrame(
        columns=["step", "tokens", "loss", "learning_rate", "gradient_norm", "model"])
    for name, table in (("results", results), ("needle", needle), ("training", training), ("shares", shares),
                        ("loss", losses)):
        table.to_csv(folder / f"{name}.csv", index=False, lineterminator="\n")


def draw(folder: Path, summary: dict[str, Any], cells: dict[str, pd.DataFrame], logs: dict[str, pd.DataFrame],
         shares: pd.DataFrame, lengths: pd.DataFrame, trained: int) -> None:
    """The page's pictures as PNG files in `folder`."""
    plots.save(plots.heatmaps(cells, trained, summary["base_context"]), folder / "heatmaps.png")
    by_length = {name: (model["needle"]["lengths"], [100 * value for value in model["needle"]["exact_match"]])
                 for name, model in summary["models"].items()}
    plots.save(plots.lines(by_length, "context length (tokens)", "exact match, %", "Needle by length"),
               folder / "needle.png")
    curves = {name: (log["tokens"].tolist(), log["loss"].tolist()) for name, log in logs.items()}
    plots.save(plots.lines(curves, "tokens trained", "loss, nats per token", "Continual pretraining"),
               folder / "training.png")
    mass = {str(domain): (part["lower"].tolist(), (part["tokens"] / part["tokens"].sum()).tolist())
            for domain, part in lengths.groupby("domain", sort=False)}
    plots.save(plots.lines(mass, "document length (tokens)", "share of the domain's tokens", "Token mass by length",
                           log_x=True), folder / "lengths.png")
    realised = shares[shares["domain"] != "all"].pivot(index="domain", columns="recipe", values="realised")
    plots.save(plots.bars(realised * 100, "% of tokens", "Domain mixture of each recipe"), folder / "mixture.png")
    long = shares.pivot(index="domain", columns="recipe", values="long_share")
    plots.save(plots.bars(long * 100, "% of tokens", "Tokens in long documents, by recipe"), folder / "long_share.png")


def report(config: ComparisonConfig, folder: Path, results: pd.DataFrame, shares: pd.DataFrame,
           differences: pd.DataFrame, summary: dict[str, Any]) -> str:
    """The page. Pictures are read from `folder`."""
    mixture = shares.pivot(index="recipe", columns="domain", values="realised").mul(100).drop(columns="all")
    long = shares.pivot(index="recipe", columns="domain", values="long_share").mul(100)
    return page.page(f"Needlework: {config.title}", [
        page.heading("Needle in a haystack"),
        page.paragraph("Exact match in percent: the share of trials in which greedy decoding gives the whole value. "
                       "Means are over every length up to the trained one and every depth below 100 %, where the "
                       "statement touches the question. Gain: log-probability of the value with the statement in the "
                       "context less without it, nats per token; it can be large for a model that answers nothing, so "
                       "read it beside exact match only. Choice: share of trials in which the true value beats every "
                       "other value that the same context shows."),
        page.table(results, 1),
        page.picture(folder / "heatmaps.png", "Needle heatmaps of every model"),
        page.picture(folder / "needle.png", "Exact match by context length"),
        page.paragraph("The paper, 1K to 128K, on models of another size and a test of another kind: a place to stand "
                       "beside, not a scale to compare on.", note=True),
        page.table(PAPER_NEEDLE, 1),
        page.heading("Held-out loss by domain and position"),
        page.paragraph(f"Nats per token of {config.baseline}; for the other models the difference to it. A band counts "
                       "positions in a document read alone."),
        page.table(differences, 3),
        page.paragraph("The paper's table 5 for the same recipes, difference to original, first band (0-4K) and second "
                       "(4K-128K):", note=True),
        page.table(paper_loss_table(), 3),
        page.heading("What the recipes did to the data"),
        page.paragraph("Share of each domain in percent of tokens:"), page.table(mixture.reset_index(), 1),
        page.picture(folder / "mixture.png", "Domain mixture of each recipe"),
        page.paragraph("Share of tokens in long documents, in percent of each domain:"),
        page.table(long.reset_index(), 1), page.picture(folder / "long_share.png", "Long shares of each recipe"),
        page.picture(folder / "lengths.png", "Token mass by document length in each domain"),
        page.heading("Training"), page.picture(folder / "training.png", "Loss while training"),
        page.paragraph(f"C, the base context, is {summary['base_context']} tokens. Recipe and paper figures: Fu et al. "
                       "2024, Data Engineering for Scaling Language Models to 128K Context, arXiv 2402.10171.",
                       note=True)])


def paper_loss_table() -> pd.DataFrame:
    """Table 5 of the paper for the recipes we share with it."""
    rows = []
    for recipe, domains in PAPER_LOSS.items():
        for band, name in enumerate(("0-4K", "4K-128K")):
            rows.append({"band": name, "recipe": recipe, **{domain: pair[band] for domain, pair in domains.items()}})
    return pd.DataFrame(rows).sort_values("band", kind="stable")


if __name__ == "__main__":
    command(run)
