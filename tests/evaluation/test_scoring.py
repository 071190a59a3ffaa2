"""Token losses are those of the whole row, for any size of the parts."""

import numpy as np
import torch
from worlds import VOCABULARY, tiny

from evaluation.scoring import token_losses


def test_token_losses_are_those_of_the_whole_row() -> None:
    model, row = tiny().eval(), np.random.default_rng(0).integers(0, VOCABULARY, 40)
    with torch.no_grad():
        logits = model(torch.from_numpy(row[None])).logits[0, :-1]
    reference = torch.nn.functional.cross_entropy(
        logits, torch.from_numpy(row[1:]), reduction="none"
    )
    assert np.allclose(token_losses(model, row, tokens_at_once=7), reference, atol=1e-5)


def test_a_row_of_one_token_has_no_loss() -> None:
    assert len(token_losses(tiny().eval(), np.zeros(1, np.int64))) == 0
