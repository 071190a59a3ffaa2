"""The parts of benchmarks/gpu.py: each yields its results one by one.

Training is measured on the path that the stage takes: FSDP2 on one process, the chunked loss, the
project's attention and its loop. Models have random weights: speed and memory do not depend on
them. MFU counts useful work only (training/flops.py) against the data sheet's dense bf16 peak.
"""

import dataclasses
import gc
import importlib.metadata
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import LlamaConfig, PreTrainedModel
from transformers.models.llama import modeling_llama

from benchmarks.needle import ANSWER, ENDS, needle_for
from evaluation.needle import Cell, Needle, prompt
from evaluation.prefix_cache import PrefixCache
from training import attention, snapshots
from training.batches import Batch, RowsInMemory
from training.flops import PEAK_BF16, named_gpu, shape_of
from training.hardware import COMPILE, KEEP_ATTENTION, LIGER, TILED_MLP, Hardware
from training.loss import TokenLoss
from training.memory import GIB, Load, on_device
from training.micro_batches import forward
from training.model import shell_of
from training.optimizer import make_optimizer
from training.optimizer_config import OptimizerConfig
from training.parallel import LAUNCHED, World, divide, join_world
from training.resume import load
from training.trainer import Task, train

Result = dict[str, Any]
ROOT = Path(__file__).parents[1]
PACKAGES = (
    "torch",
    "transformers",
    "accelerate",
    "liger-kernel",
    "torchao",
    "flash-attn-4",
    "numpy",
    "triton",
)
LOSS_CLOSE, BF16_CLOSE, FP8_CLOSE = 1e-3, 0.03, 0.3
"""Relative differences that rounding may cause: of a loss, and of all gradients as one vector.
Measured on an H200 with random weights: 2e-5, 0.015 in bf16 and 0.18 in fp8."""
ROTATE = modeling_llama.apply_rotary_pos_emb
"""The function of transformers. liger and compile replace it, for all later models too."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Card:
    """The device that is measured, and the sizes that fit it."""

    device: torch.device
    name: str
    gib: float
    toy: bool
    """Small sizes, to check that everything runs."""
    lengths: tuple[int, ...]
    long: int
    """The length at which switches are compared."""
    layers: int
    """Layers of the model that has a 7B's width."""
    world: World

    @classmethod
    def of_here(cls, toy: bool) -> "Card":
        """The first GPU, or the CPU where there is none. toy: small sizes."""
        os.environ |= {LAUNCHED: "true", "FSDP_RESHARD_AFTER_FORWARD": "true"}
        world = join_world()
        name, gib = "CPU", 4.0
        if world.device.type == "cuda":
            properties = torch.cuda.get_device_properties(world.device)
            name, gib = properties.name, properties.total_memory / GIB

        sizes: Result = {
            "lengths": (4096, 16_384, 32_768, 81_920, 131_072),
            "long": 81_920,
            "layers": 8,
        }
        if toy:
            # One thread, as in a training on a CPU.
            torch.set_num_threads(1)
            sizes = {
                "lengths": (64, 128),
                "long": 128,
                "layers": 2,
            }

        return cls(
            device=world.device,
            name=name,
            gib=gib,
            toy=toy,
            world=world,
            **sizes,
        )

    @property
    def peak(self) -> float:
        """Dense bf16 FLOP/s by the data sheet; an H100's if the card is not known."""
        return PEAK_BF16[named_gpu(self.name) or "H100"]

    def config(self, length: int, layers: int) -> LlamaConfig:
        """LLaMA-2-7B's config with that context and number of layers; in a dry run, a toy."""
        if self.toy:
            return LlamaConfig(
                vocab_size=256,
                hidden_size=64,
                intermediate_size=128,
                num_hidden_layers=layers,
                num_attention_heads=4,
                num_key_value_heads=4,
                max_position_embeddings=length,
            )

        config = LlamaConfig.from_json_file(ROOT / "models/llama-2-7b.json")
        config.max_position_embeddings = length
        config.num_hidden_layers = layers
        return config

    def wait(self) -> None:
        """Wait until the device has finished its queue."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def forget(self) -> None:
        """Free the memory of a part, and compiled code of other lengths."""
        torch.compiler.reset()
        modeling_llama.apply_rotary_pos_emb = ROTATE
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak_gib(self) -> float:
        """The most memory that tensors took since `forget`."""
        if self.device.type != "cuda":
            return 0.0
        return torch.cuda.max_memory_allocated() / GIB


def seconds_of(card: Card, run: Callable[[], Any], repeats: int = 3) -> float:
    """Median seconds of `run`, after a first call that is not counted."""
    # The first call compiles, allocates and chooses kernels.
    run()

    times = []
    for _ in range(repeats):
        # The device works on after a call returns, so the clock waits for it on both sides.
        card.wait()
        begun = time.monotonic()
        run()
        card.wait()
        times.append(time.monotonic() - begun)
    return float(np.median(times))


def machine(card: Card) -> Iterator[Result]:
    """Versions, and the ceilings: a large matrix product and a large copy."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "absent"

    yield {
        "card": card.name,
        "GiB": round(card.gib, 1),
        "python": platform.python_version(),
        **found,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }

    for size in (256,) if card.toy else (8192, 16_384):
        one = _random(card, size, size)
        other = _random(card, size, size)
        spent = seconds_of(card, lambda one=one, other=other: one @ other, 5)
        speed = 2 * size**3 / spent / 1e12
        yield {"product": size, "TFLOP/s": round(speed, 1)}

    # 4 GiB, far more than any cache.
    source = torch.randn(1 << (20 if card.toy else 30), device=card.device)
    target = torch.empty_like(source)
    spent = seconds_of(card, lambda: target.copy_(source), 5)
    bandwidth = 2 * source.nbytes / spent / 1e12
    yield {"copy": "read + written", "TB/s": round(bandwidth, 3)}


def _random(card: Card, *shape: int) -> torch.Tensor:
    """bf16 of that shape on the device, normally distributed."""
    return torch.randn(*shape, device=card.device, dtype=torch.bfloat16)


def attention_speed(card: Card) -> Iterator[Result]:
    """Causal attention by kernel and length, forward and backward, 32 heads of 128."""
    kernels = {"cudnn": SDPBackend.CUDNN_ATTENTION, "flash2": SDPBackend.FLASH_ATTENTION}
    if card.device.type == "cpu":
        kernels = {"cpu": SDPBackend.FLASH_ATTENTION}

    # Length, heads, heads of keys and values, and width of a head.
    heads = 4 if card.toy else 32
    shapes = [(length, heads, heads, 128) for length in card.lengths]
    if not card.toy:
        # Grouped heads, as in LLaMA-3 8B and in SmolLM2.
        shapes += [(32_768, 32, 8, 128), (32_768, 9, 3, 64)]

    for name, kernel in kernels.items():
        for shape in shapes:
            yield _attention_of(card, name, kernel, *shape)

    # Last, because an installed FlashAttention replaces PyTorch's flash kernel in this process.
    flash = attention.activate_flash() if card.device.type == "cuda" else None
    if flash is not None:
        for shape in shapes:
            yield _attention_of(card, flash, SDPBackend.FLASH_ATTENTION, *shape)


def _attention_of(
    card: Card,
    name: str,
    kernel: SDPBackend,
    length: int,
    heads: int,
    shared: int,
    width: int,
) -> Result:
    """TFLOP/s of one kernel, forward and backward."""
    query = _random(
        card,
        1,
        heads,
        length,
        width,
    )
    slope = _random(
        card,
        1,
        heads,
        length,
        width,
    )
    key = _random(
        card,
        1,
        shared,
        length,
        width,
    )
    value = _random(
        card,
        1,
        shared,
        length,
        width,
    )
    parts = [part.requires_grad_() for part in (query, key, value)]
    # Two products of 2 FLOP a multiplication, over half of the square.
    work = 2.0 * heads * width * length**2

    def ahead() -> torch.Tensor:
        with sdpa_kernel(kernel):
            return functional.scaled_dot_product_attention(
                *parts, is_causal=True, enable_gqa=heads != shared
            )

    result: Result = {
        "kernel": name,
        "length": length,
        "heads": f"{heads}/{shared} x {width}",
    }
    try:
        forwards = seconds_of(card, ahead)
        out = ahead()
        backwards = seconds_of(card, lambda: torch.autograd.grad(out, parts, slope, True))
    except RuntimeError as error:
        return result | {"failed": str(error).splitlines()[0][:200]}

    # A backward pass counts two and a half forward ones, as is usual: five products for two.
    return result | {
        "forward TFLOP/s": round(work / forwards / 1e12, 1),
        "backward TFLOP/s": round(2.5 * work / backwards / 1e12, 1),
    }


def correct(card: Card) -> Iterator[Result]:
    """Loss and gradients against stock fp32, and of each switch against none."""
    length = 128 if card.toy else 2048
    config = LlamaConfig(
        vocab_size=256 if card.toy else 32_000,
        hidden_size=64 if card.toy else 1024,
        intermediate_size=128 if card.toy else 2816,
        num_hidden_layers=2 if card.toy else 4,
        num_attention_heads=4 if card.toy else 16,
        num_key_value_heads=2 if card.toy else 4,
        max_position_embeddings=length,
    )
    ids = np.random.default_rng(0).integers(0, config.vocab_size, (1, length))
    whole = Batch(ids=ids, starts=[np.zeros(1, np.int64)])
    halves = Batch(ids=ids, starts=[np.array([0, length // 2])])

    stock = _stock(card, config, ids)
    plain = _ours(card, config, whole)
    yield {"what": "bf16 against stock fp32", **_differ(plain, stock)}
    yield {"what": "the same again", **_differ(_ours(card, config, whole), plain)}

    ways = [
        (Hardware(checkpoint_activations=True), False),
        (Hardware(checkpoint_activations=True, offload_activations=True), False),
        (Hardware(checkpoint_activations=True, keep_attention=True), False),
    ]
    ways += [(Hardware(switches=frozenset({name})), False) for name in _fused(card)]
    ways += [
        (Hardware(checkpoint_activations=True, switches=frozenset({TILED_MLP})), False),
        (Hardware(), True),
        (Hardware(switches=frozenset({COMPILE})), True),
    ]
    for hardware, fp8 in ways:
        words = _words(hardware, fp8)
        try:
            found = _ours(
                card,
                config,
                whole,
                hardware,
                fp8,
            )
            yield {
                "what": f"{words} against plain",
                **_differ(found, plain, fp8),
                "gradient to stock": _differ(found, stock, fp8)["gradient"],
            }
        except Exception as error:
            yield {"what": words, "failed": _short(error)}

    # Losses and gradients are sums over tokens, so those of the halves add up.
    masked = _ours(card, config, halves, document_mask=True)
    left, right = (_stock(card, config, part) for part in np.array_split(ids, 2, axis=1))
    together = left[0] + right[0], left[1] + right[1]
    yield {"what": "two masked documents against each alone in fp32", **_differ(masked, together)}
    yield {"what": "cached attention against fp32", "kernel error": _cached_error(card)}


def _short(error: Exception) -> str:
    """The first line of an error, with its type."""
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


def _fused(card: Card) -> tuple[str, ...]:
    """The switches that fuse operations. Liger's kernels need a GPU."""
    return (LIGER, COMPILE) if card.device.type == "cuda" else (COMPILE,)


def _model(card: Card, config: LlamaConfig) -> PreTrainedModel:
    """A model with the same random weights at every call."""
    torch.manual_seed(0)
    # A switch of an earlier model may have replaced it.
    modeling_llama.apply_rotary_pos_emb = ROTATE
    with card.device:
        model = shell_of(config)
        _fill_weights(model)
    return model


def _fill_weights(model: PreTrainedModel) -> None:
    """Fill matrices with random numbers, and norms with ones."""
    with torch.no_grad():
        for part in model.parameters():
            if part.ndim > 1:
                part.normal_(0, 0.02)
            else:
                part.fill_(1)


def _stock(card: Card, config: LlamaConfig, ids: np.ndarray) -> tuple[float, torch.Tensor]:
    """Loss and gradients of stock transformers in fp32, eager attention."""
    model = _model(card, config)
    # Plain PyTorch operations, no fused kernel.
    model.set_attn_implementation("eager")

    inputs = torch.from_numpy(ids).to(card.device)
    logits = model(inputs, use_cache=False).logits[0, :-1].float()
    loss = functional.cross_entropy(logits, inputs[0, 1:], reduction="sum")
    loss.backward()

    gradients = [part.grad.flatten() for part in model.parameters()]
    return loss.item(), torch.cat(gradients).cpu()


def _ours(
    card: Card,
    config: LlamaConfig,
    batch: Batch,
    hardware: Hardware | None = None,
    fp8: bool = False,
    document_mask: bool = False,
) -> tuple[float, torch.Tensor]:
    """Loss and gradients by the path that trains: FSDP2, bf16 products."""
    world = dataclasses.replace(card.world, hardware=hardware or Hardware())
    model = _model(card, config)
    attention.register(card.device, None)
    model.set_attn_implementation(attention.NAME)
    loss = divide(TokenLoss(model), world, True, fp8)

    # Checkpointing is active in training mode only.
    loss.train()
    value = forward(
        loss,
        batch,
        world,
        document_mask,
        True,
    )
    value.backward()
    gradients = [part.grad.to_local().flatten().float() for part in loss.parameters()]
    return value.item(), torch.cat(gradients).cpu()


def _differ(
    found: tuple[float, torch.Tensor], right: tuple[float, torch.Tensor], fp8: bool = False
) -> Result:
    """Relative difference of the loss, and of all gradients as one vector."""
    gradient = ((found[1] - right[1]).norm() / right[1].norm()).item()
    loss = abs(found[0] / right[0] - 1)

    result: Result = {"loss": float(f"{loss:.2e}"), "gradient": float(f"{gradient:.2e}")}
    close = FP8_CLOSE if fp8 else BF16_CLOSE
    # Not `loss > LOSS_CLOSE or ...`: NaN must fail.
    if not (loss <= LOSS_CLOSE and gradient <= close):
        result["failed"] = "further apart than rounding explains"
    return result


def _cached_error(card: Card) -> dict[str, float]:
    """Relative error of attention from some new tokens to a cache, by the number of new ones."""
    known = 256 if card.toy else 8192
    errors = {}
    for name, asked in (("one", 1), ("some", 100), ("all", known)):
        query = _random(
            card,
            2,
            8,
            asked,
            64,
        )
        key = _random(
            card,
            2,
            2,
            known,
            64,
        )
        value = _random(
            card,
            2,
            2,
            known,
            64,
        )
        out, _ = attention.attend_cached(
            torch.nn.Module(),
            query,
            key,
            value,
            None,
        )

        # By hand in fp64. Four heads share a key; 8 is the root of 64, the width of a head.
        keys = key.double().repeat_interleave(4, dim=1)
        values = value.double().repeat_interleave(4, dim=1)
        scores = query.double() @ keys.transpose(2, 3) / 8
        seen = torch.ones(asked, known, dtype=torch.bool, device=card.device)
        hidden = ~seen.tril(known - asked)
        weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)
        right = weights @ values
        error = (out.transpose(1, 2).double() - right).norm() / right.norm()
        errors[name] = float(f"{error.item():.2e}")
    return errors


def _words(hardware: Hardware, fp8: bool) -> str:
    """What is switched on, as in NEEDLEWORK_SWITCHES."""
    flags = {
        "checkpoint": hardware.checkpoint_activations,
        KEEP_ATTENTION: hardware.keep_attention,
        "offload": hardware.offload_activations,
        "fp8": fp8,
    }
    names = [name for name, on in flags.items() if on]
    return ", ".join(names + sorted(hardware.switches)) or "plain"


def width(card: Card) -> Iterator[Result]:
    """A 7B's width at every length, with checkpointed activations and no other switch."""
    for length in card.lengths:
        yield one_training(card, length, card.layers, Hardware(checkpoint_activations=True))


def switches(card: Card) -> Iterator[Result]:
    """The same at the long length, with each switch."""
    base = Hardware(checkpoint_activations=True)
    keep = dataclasses.replace(base, keep_attention=True)

    def with_names(hardware: Hardware, *names: str) -> Hardware:
        return dataclasses.replace(hardware, switches=frozenset(names))

    fused = _fused(card)[0]
    # The most promising first: the time of this part may be over before the last.
    ways: list[tuple[Hardware, bool]] = [
        (with_names(keep, fused), False),
        (with_names(keep, COMPILE), False),
        (with_names(keep, COMPILE), True),
        (keep, False),
        (dataclasses.replace(base, offload_activations=True), False),
        (with_names(keep, fused, TILED_MLP), False),
    ]
    for hardware, fp8 in ways:
        yield one_training(
            card,
            card.long,
            card.layers,
            hardware,
            fp8,
        )


def one_training(
    card: Card,
    length: int,
    layers: int,
    hardware: Hardware,
    fp8: bool = False,
    kind: str = "adamw",
) -> Result:
    """Speed and memory of two steps, as in the stage. kind: of the optimizer.

    The first step has two sequences, so the gradients of one are in memory while the other runs, as
    in any real batch: it decides the peak memory. The second step, of one sequence, is timed.
    """
    card.forget()
    world = dataclasses.replace(card.world, hardware=hardware)
    config = card.config(length, layers)
    result: Result = {
        "length": length,
        "layers": layers,
        "how": _words(hardware, fp8),
        "optimizer": kind,
    }
    try:
        times = _step_times(
            card,
            config,
            world,
            fp8,
            kind,
        )
    except Exception as error:  # Out of memory, or something that is not installed: a result too.
        card.forget()
        return result | {"failed": _short(error)}

    shape = shape_of(config)
    speed = length / times[-1]
    flops = speed * shape.training_flops(length)
    planned = on_device(Load(shape=shape, hardware=hardware, tokens=length, optimizer=kind))
    return result | {
        "tokens/s": round(speed),
        "TFLOP/s": round(flops / 1e12, 1),
        "MFU": round(flops / card.peak, 4),
        "GiB": round(card.peak_gib(), 2),
        "planned GiB": round(sum(planned.values()) / GIB, 2),
        "first step": round(times[0], 1),
        "kernel": attention.kernel_words(config, length, card.device),
    }


def _step_times(
    card: Card,
    config: LlamaConfig,
    world: World,
    fp8: bool,
    kind: Any,
) -> list[float]:
    """Seconds of a step of two sequences, with compiling, and of a step of one sequence."""
    length = config.max_position_embeddings
    model = _model(card, config)
    attention.register(card.device, None)
    model.set_attn_implementation(attention.NAME)
    optimizer = OptimizerConfig(
        kind=kind, learning_rate=1e-5, batch_tokens=length, micro_batch_tokens=length
    )
    ids = np.random.default_rng(0).integers(0, config.vocab_size, (2, length))
    loss = divide(TokenLoss(model), world, True, fp8)
    moments = make_optimizer(loss, optimizer)

    times = []
    for rows in (2, 1):
        each = optimizer.model_copy(update={"batch_tokens": rows * length})
        task = Task(
            what=f"{length:,}", rows=RowsInMemory(ids=ids), steps=1, optimizer=each, seed=0, fp8=fp8
        )
        before = time.monotonic()
        list(train(loss, moments, task, world))
        card.wait()
        times.append(time.monotonic() - before)
    return times


def needle(card: Card) -> Iterator[Result]:
    """Cells of the needle grid with a prefix cache, against one full pass for each prompt."""
    lengths = (64, 128) if card.toy else (32_768, 131_072)
    config = card.config(max(lengths), card.layers)
    with card.device:
        model = shell_of(config).to(torch.bfloat16).eval()
        _fill_weights(model)
    attention.register(card.device, None)
    model.set_attn_implementation(attention.CACHED)
    for length in lengths:
        yield _needle_at(card, model, length)


def _needle_at(card: Card, model: PreTrainedModel, length: int) -> Result:
    """Five cells of one length: seconds of a full pass, of a cell, and of a generated token."""
    test = needle_for(model.config.vocab_size, length)
    places = [int(length * share) for share in (0.9, 0.7, 0.5, 0.3, 0.1)]
    prompts = [_prompt(test, length, place) for place in places]
    answer = test.answer[None]

    # Once without counting, as in seconds_of.
    fresh = PrefixCache(model, 1, length, 4096)
    fresh.score(prompts[-1], answer)
    card.wait()

    begun = time.monotonic()
    fresh = PrefixCache(model, 1, length, 4096)
    full = fresh.score(prompts[-1], answer)
    card.wait()
    whole = time.monotonic() - begun

    # As the report does: the haystack alone, then the cells, the last place first.
    cache = PrefixCache(model, 1, length, 4096)
    cache.score(_prompt(test, length, None), answer)
    card.wait()
    begun = time.monotonic()
    answers = [cache.score(each, answer) for each in prompts]
    card.wait()
    cell = (time.monotonic() - begun) / len(places)

    cache.generate(prompts[-1], 2)
    card.wait()
    begun = time.monotonic()
    cache.generate(prompts[0], 16)
    spoken = (time.monotonic() - begun) / 16
    return {
        "length": length,
        "layers": model.config.num_hidden_layers,
        "full pass s": round(whole, 3),
        "cell with prefix s": round(cell, 3),
        "ratio": round(whole / cell, 2),
        "ms a spoken token": round(1000 * spoken, 1),
        "largest difference": float(f"{np.abs(answers[-1] - full).max():.2e}"),
        "same choice": bool((answers[-1].argmax(-1) == full.argmax(-1)).all()),
        "GiB": round(card.peak_gib(), 2),
    }


def _prompt(test: Needle, length: int, place: int | None) -> np.ndarray:
    """The prompt of a cell: int64[1, length - ANSWER]. place None: without a needle."""
    cell = Cell(
        length=length,
        depth=0,
        place=place,
    )
    return prompt(test, cell, ANSWER, ENDS)[None]


def resume(card: Card) -> Iterator[Result]:
    """Compare four steps without a stop with two, a snapshot, and two more."""
    for fixed in (True, False):
        torch.use_deterministic_algorithms(fixed)
        straight, _ = _trained(card, None)
        again, _ = _trained(card, None)
        with tempfile.TemporaryDirectory() as folder:
            resumed, facts = _trained(card, Path(folder))
        torch.use_deterministic_algorithms(False)

        yield {
            "deterministic algorithms": fixed,
            **facts,
            "twice the same": _apart(straight, again),
            "resumed": _apart(straight, resumed),
            "bit-equal": bool(torch.equal(straight, resumed)),
        }


def _apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """Relative difference of two vectors."""
    difference = (one - other).norm() / one.norm()
    return float(f"{difference.item():.2e}")


def _trained(card: Card, folder: Path | None) -> tuple[torch.Tensor, Result]:
    """All weights after four steps, and facts about the snapshot.

    With a folder, a snapshot is saved after two steps and loaded into a new model and optimizer.
    """
    length = 128 if card.toy else 2048
    config = card.config(length, 2)
    if not card.toy:
        # Small enough to be written in a second.
        config.hidden_size = 1024
        config.intermediate_size = 2816
        config.num_attention_heads = 8
        config.num_key_value_heads = 8
    optimizer = OptimizerConfig(
        learning_rate=1e-3,
        batch_tokens=length,
        micro_batch_tokens=length,
    )
    ids = np.random.default_rng(0).integers(0, config.vocab_size, (4, length))
    world = dataclasses.replace(card.world, hardware=Hardware(checkpoint_activations=True))

    def fresh() -> tuple[TokenLoss, torch.optim.Optimizer]:
        card.forget()
        model = _model(card, config)
        attention.register(card.device, None)
        model.set_attn_implementation(attention.NAME)
        loss = divide(TokenLoss(model), world, True)
        return loss, make_optimizer(loss, optimizer)

    task = Task(
        what="resume",
        rows=RowsInMemory(ids=ids),
        steps=4,
        optimizer=optimizer,
        seed=0,
    )
    loss, moments = fresh()

    log, facts = [], {}
    for line in train(loss, moments, task, world):
        log.append(line)
        if folder is not None and len(log) == 2:
            break

    if folder is not None:
        begun = time.monotonic()
        where = snapshots.save(
            folder,
            loss,
            moments,
            log,
            world,
        )
        spent = time.monotonic() - begun
        size = sum(path.stat().st_size for path in where.rglob("*"))
        facts = {"snapshot GiB": round(size / GIB, 2), "GB/s": round(size / spent / 1e9, 2)}

        # Before the new ones are made, so that both are never in memory.
        del loss, moments
        loss, moments = fresh()
        log = load(where, loss, moments, world)
        log += list(
            train(
                loss,
                moments,
                task,
                world,
                log,
            )
        )

    weights = [part.to_local().flatten().cpu() for part in loss.parameters()]
    return torch.cat(weights), facts


def whole(card: Card) -> Iterator[Result]:
    """Two steps of a whole 7B at 80K, if the card has the memory: 8-bit moments, attention kept."""
    # An H200 has 140 GiB, the next smaller cards 80.
    if card.gib < 130 and not card.toy:
        yield {
            "skipped": f"a whole 7B at {card.long:,} tokens needs an H200; this card has "
            f"{card.gib:.0f} GiB"
        }
        return

    fused = frozenset(_fused(card)[:1])
    kind = "adamw_8bit" if card.device.type == "cuda" else "adamw"
    # Without keeping attention's output only if it does not fit with it.
    for keep in (True, False):
        hardware = Hardware(
            checkpoint_activations=True,
            keep_attention=keep,
            switches=fused,
        )
        result = one_training(
            card,
            card.long,
            2 if card.toy else 32,
            hardware,
            kind=kind,
        )
        yield result
        if "failed" not in result:
            return
