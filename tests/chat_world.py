"""A chat model made by hand: what it says next depends on the last token alone, so a test can say
what it will say.
"""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM

from core.sealed import write_json

USER, ASSISTANT, END, BEGIN = "<|user|>", "<|assistant|>", "<|end|>", "<|begin|>"
SPECIAL = (BEGIN, USER, ASSISTANT, END)
TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + "
    "'<|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def write_speaker(
    folder: Path,
    says: dict[str, str],
    words: str,
    template: str | None = TEMPLATE,
    context: int = 256,
    around: str | None = None,
) -> Path:
    """A model folder. says: from a token to the one that follows it; after any other comes the end
    token.

    around: the tokenizer's own template, "$A <|end|>". words: all other words of its vocabulary.
    One word is one token, and so is each punctuation mark.
    """
    pieces = [piece for piece, _ in pre_tokenizers.Whitespace().pre_tokenize_str(words)]
    vocabulary = {
        word: number for number, word in enumerate(dict.fromkeys([*SPECIAL, "?!", *pieces]))
    }
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="?!"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(list(SPECIAL))
    if around is not None:
        ids = [(token, vocabulary[token]) for token in SPECIAL if token in around]
        tokenizer.post_processor = processors.TemplateProcessing(single=around, special_tokens=ids)
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": BEGIN, "eos_token": END},
    )
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)

    size = len(vocabulary)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=size,
            hidden_size=size + size % 2,
            intermediate_size=2,
            num_hidden_layers=1,
            num_attention_heads=1,
            max_position_embeddings=context,
            bos_token_id=0,
            eos_token_id=vocabulary[END],
            tie_word_embeddings=False,
        )
    )
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.fill_(1.0 if "norm" in name else 0.0)  # attention and feed-forward add nothing
        for word, number in vocabulary.items():
            model.model.embed_tokens.weight[number, number] = 1
            model.lm_head.weight[vocabulary[says.get(word, END)], number] = 1
    model.save_pretrained(folder)
    return folder
