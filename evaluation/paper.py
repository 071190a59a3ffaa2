"""The paper's own figures, to compare with: Fu et al. 2024, arXiv 2402.10171.

Data Engineering for Scaling Language Models to 128K Context. Losses are in nats per token, scores
in percent. They are typed from the paper; no code can check them.
"""

import pandas as pd

# Tables 3 and 4. Needle is word overlap over 40 lengths to 128K and 10 depths.
MODELS = pd.DataFrame(
    [
        ("GPT-4-Turbo", "128K", 87.1, 86.4, 37.4),
        ("YaRN Mistral 7B", "128K", 57.4, 59.4, 26.3),
        ("Together LLaMA-2 7B", "32K", 27.9, 44.8, None),
        ("LongChat v1.5 7B", "32K", 18.0, 42.3, None),
        ("LongLoRA 7B", "100K", 70.0, 37.9, 24.3),
        ("paper, 7B", "80K", 88.0, 43.3, 27.4),
        ("LongLoRA 13B", "64K", 54.1, 50.1, 24.6),
        ("paper, 13B", "64K", 90.0, 52.4, 31.1),
    ],
    columns=["model", "trained to", "needle", "MMLU", "BookQA"],
)

# Figure 3.
QUANTITY = pd.DataFrame(
    [
        (1e8, 37.8, 1.87, 1.65, 1.50, 1.45, 1.61),
        (3e8, 59.0, 1.82, 1.57, 1.45, 1.35, 1.44),
        (5e8, 81.1, 1.81, 1.59, 1.43, 1.34, 1.34),
        (1e9, 85.3, 1.81, 1.57, 1.42, 1.34, 1.38),
        (5e9, 88.0, 1.80, 1.56, 1.41, 1.32, 1.36),
        (1e10, 84.0, 1.79, 1.55, 1.40, 1.31, 1.35),
    ],
    columns=["tokens", "needle", "loss at 1K", "16K", "32K", "64K", "128K"],
)

DOMAINS = ["c4", "commoncrawl", "stackexchange", "arxiv", "wikipedia", "book", "github"]
# Table 5, in two bands: the loss of "original", and differences to it.
LOSS_0_4K = pd.DataFrame(
    [
        ("original", 2.038, 1.760, 1.519, 1.660, 1.424, 2.085, 0.907),
        ("per_source", 0.002, 0.008, -0.001, -0.008, -0.040, -0.065, -0.008),
        ("global", 0.008, 0.010, 0.015, -0.020, -0.020, -0.140, 0.015),
        ("github_up", 0.010, 0.016, 0.010, 0.006, -0.026, 0.030, -0.023),
        ("book_up", 0.010, 0.016, 0.021, 0.000, -0.010, -0.175, 0.029),
        ("arxiv_up", 0.006, 0.016, 0.013, -0.060, -0.030, 0.040, 0.025),
    ],
    columns=["recipe", *DOMAINS],
)
LOSS_4K_128K = pd.DataFrame(
    [
        ("original", 1.560, 1.650, 0.786, 1.075, 1.313, 1.852, 0.447),
        ("per_source", -0.010, -0.010, -0.006, -0.011, -0.044, -0.014, 0.002),
        ("global", -0.010, -0.006, -0.001, -0.016, -0.040, -0.018, -0.007),
        ("github_up", -0.008, -0.002, -0.003, -0.007, -0.042, -0.010, -0.029),
        ("book_up", -0.010, -0.006, 0.001, -0.007, -0.037, -0.30, 0.000),
        ("arxiv_up", -0.008, -0.002, 0.002, -0.036, -0.039, -0.010, -0.004),
    ],
    columns=["recipe", *DOMAINS],
)
