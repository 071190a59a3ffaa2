"""The paper's own figures, to stand beside: Fu et al. 2024, Data Engineering for Scaling Language Models to 128K
Context, arXiv 2402.10171. Losses in nats per token, scores in percent."""

import pandas as pd

MODELS = pd.DataFrame(
    [("GPT-4-Turbo", "128K", 87.1, 86.4, 37.4), ("YaRN Mistral 7B", "128K", 57.4, 59.4, 26.3),
     ("Together LLaMA-2 7B", "32K", 27.9, 44.8, None), ("LongChat v1.5 7B", "32K", 18.0, 42.3, None),
     ("LongLoRA 7B", "100K", 70.0, 37.9, 24.3), ("paper, 7B", "80K", 88.0, 43.3, 27.4),
     ("LongLoRA 13B", "64K", 54.1, 50.1, 24.6), ("paper, 13B", "64K", 90.0, 52.4, 31.1)],
    columns=["model", "trained to", "needle", "MMLU", "BookQA"])
"""Tables 3 and 4: needle is word overlap over 40 lengths to 128K and 10 depths."""

QUANTITY = pd.DataFrame(
    [(1e8, 37.8, 1.87, 1.65, 1.50, 1.45, 1.61), (3e8, 59.0, 1.82, 1.57, 1.45, 1.35, 1.44),
     (5e8, 81.1, 1.81, 1.59, 1.43, 1.34, 1.34), (1e9, 85.3, 1.81, 1.57, 1.42, 1.34, 1.38),
     (5e9, 88.0, 1.80, 1.56, 1.41, 1.32, 1.36), (1e10, 84.0, 1.79, 1.55, 1.40, 1.31, 1.35)],
    columns=["tokens", "needle", "loss at 1K", "16K", "32K", "64K", "128K"])
"""Figure 3."""

DOMAINS = ["c4", "commoncrawl", "stackexchange", "arxiv", "wikipedia", "book", "github"]
LOSS_0_4K = pd.DataFrame(
    [("original", 2.038, 1.760, 1.519, 1.660, 1.424, 2.085, .907),
     ("per_source", .002, .008, -.001, -.008, -.040, -.065, -.008),
     ("global", .008, .010, .015, -.020, -.020, -.140, .015),
     ("github_up", .010, .016, .010, .006, -.026, .030, -.023),
     ("book_up", .010, .016, .021, .000, -.010, -.175, .029),
     ("arxiv_up", .006, .016, .013, -.060, -.030, .040, .025)],
    columns=["recipe", *DOMAINS])
LOSS_4K_128K = pd.DataFrame(
    [("original", 1.560, 1.650, .786, 1.075, 1.313, 1.852, .447),
     ("per_source", -.010, -.010, -.006, -.011, -.044, -.014, .002),
     ("global", -.010, -.006, -.001, -.016, -.040, -.018, -.007),
     ("github_up", -.008, -.002, -.003, -.007, -.042, -.010, -.029),
     ("book_up", -.010, -.006, .001, -.007, -.037, -.30, .000),
     ("arxiv_up", -.008, -.002, .002, -.036, -.039, -.010, -.004)],
    columns=["recipe", *DOMAINS])
"""Table 5: the loss of "original", and differences to it."""
