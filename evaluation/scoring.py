"""Log-probabilities of chosen tokens: one forward pass, logits at the asked positions alone.

Teacher forcing asks for each token of the answer after the true ones before it. The answer is matched exactly if every
one of them is the model's first choice, which is the same event as greedy decoding giving the answer, in one pass
instead of one a token. Logits of a whole 3,000-token row would cost 23 MB of fp32; of an answer, a few KB.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional
from transformers import PreTrainedModel

Logits = NDArray[np.float32]


@torch.inference_mode()
def answer_log_probs(model: PreTrainedModel, rows: NDArray[np.int64], answer_length: int) -> Logits:
    """Log-probabilities at the last `answer_length` tokens of equally long rows.

    rows: int64[n, length] -> float32[n, answer_length, vocabulary]; entry [:, j] predicts answer token j.
    """
    hidden = _hidden(model, torch.from_numpy(rows))[:, -answer_length - 1:-1]
    return _log_probs(model, hidden).numpy()


@torch.inference_mode()
def token_losses(model: PreTrainedModel, row: NDArray[np.int64], tokens_at_once: int = 2048) -> NDArray[np.float32]:
    """Loss in nats of every token of one row but the first: int64[length] -> float32[length - 1]."""
    hidden = _hidden(model, torch.from_numpy(row[None]))[0, :-1]
    targets = torch.from_numpy(row[1:])
    losses = [functional.nll_loss(_log_probs(model, part), target, reduction="none")
              for part, target in zip(hidden.split(tokens_at_once), targets.split(tokens_at_once), strict=True)]
    return torch.cat(losses).numpy() if losses else np.empty(0, np.float32)


def _hidden(model: PreTrainedModel, rows: torch.Tensor) -> torch.Tensor:
    with torch.autocast(rows.device.type, torch.bfloat16):
        return model.base_model(input_ids=rows.to(model.device), use_cache=False).last_hidden_state


def _log_probs(model: PreTrainedModel, hidden: torch.Tensor) -> torch.Tensor:
    """The head in fp32: a first choice decided by bf16 rounding would be no choice."""
    return functional.log_softmax(model.get_output_embeddings()(hidden.float()), dim=-1).cpu()
