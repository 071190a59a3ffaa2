"""The loss of every token of a row, without holding its logits.

The logits of a row of 128K tokens over a vocabulary of 32K would take 16 GiB, so they are computed
a part at a time. The model runs in fp32 on a CPU, and in the dtype of its weights on a GPU; the
head runs in fp32 on both.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional
from transformers import PreTrainedModel

from evaluation.prefix_cache import log_probs


@torch.inference_mode()
def token_losses(
    model: PreTrainedModel, row: NDArray[np.int64], tokens_at_once: int = 2048
) -> NDArray[np.float32]:
    """The loss of every token of a row except the first, in nats.

    int64[length] -> float32[length - 1]. tokens_at_once: positions whose logits are held.
    """
    ids = torch.from_numpy(row[None]).to(model.device)
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state[0, :-1]
    targets = torch.from_numpy(row[1:]).to(hidden.device)
    parts = zip(hidden.split(tokens_at_once), targets.split(tokens_at_once), strict=True)
    losses = []
    for part, target in parts:
        scores = log_probs(model, part)
        # The loss is taken where the logits are: 16 GB of a row of 128K never reach the host.
        losses.append(functional.nll_loss(scores, target.to(scores.device), reduction="none"))
    if not losses:  # a row of one token
        return np.empty(0, np.float32)
    return torch.cat(losses).cpu().numpy()
