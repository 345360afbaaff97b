"""Options that several commands share, and what one may write for them."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable
from typing import Any

import click

POOLINGS = "native, none, mean, cls, last, max, mean_sqrt_len, weightedmean, rank"
CPU = -1  # --device cpu
NORMS = {
    "none": -1, "max": 0, "taxicab": 1, "l1": 1, "euclid": 2, "l2": 2, "manhattan": 1, "euclidean": 2, "true": 2,
    "false": -1,
}  # fmt: skip
NUMERICS = ("auto", "exact", "ggml", "fast", "int8", "bf16", "cupy")
PRECISIONS = ("float32", "tf32", "fp16", "bf16")
# rows of kernels/ggml/profile.py
PROFILES = ("avx2", "avx2-gcc13", "avx2-gcc12", "avx2-b11739", "avx2-b9093", "avx2-gcc13-b9014", "avx512", "neon")
SEMANTICS = ("llama.cpp", "original")
FORMATS = ("text", "json", "jsonl", "npy", "csv", "raw", "array", "json+")  # cli/embedding.py


def read_budget(ctx: click.Context, param: click.Parameter, value: str | None) -> int | str | None:
    """MiB, or "mapped", as `Embedder.load` takes it: in bytes."""
    if value is None or value == "mapped":
        return value
    if not re.fullmatch(r"[0-9]{1,9}", value):
        raise click.BadParameter(f"{value!r} is neither a number of MiB nor mapped.")
    return int(value) << 20


def read_device(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """Where to compute: the number of a GPU, or -1 for the CPU; None where it was not given."""
    if value is None:
        return None
    if value.lower() in ("cpu", "none"):
        return CPU
    if match := re.fullmatch(r"cuda(?::?([0-9]{1,3}))?", value.lower()):
        return int(match[1] or 0)
    raise click.BadParameter(f"{value!r} is none of cpu, cuda, cuda:N.")


def read_norm(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """llama.cpp's `--embd-normalize`: a whole number from -1, or a name for one. None where it was not given."""
    if value is None:
        return None
    number = norm_of(value)
    if number is None or number < -1:
        words = f"{value!r} is neither a whole number from -1 nor one of {', '.join(NORMS)}."
        raise click.BadParameter(f"{words} (If it is a text, it goes before the option, or after `--`.)")
    return number


def norm_of(word: str) -> int | None:
    """The number that a word stands for, if it does."""
    word = word.lower()
    return int(word) if re.fullmatch(r"[+-]?[0-9]{1,9}", word) else NORMS.get(word)


def looks_like_norm(word: str) -> bool:
    """True for what is meant as a norm, right or wrong: a number such as 2.5, -1 or nan, `l3`, a name from NORMS."""
    try:
        float(word)
    except ValueError:
        return word.lower() in NORMS or re.fullmatch(r"[lL][0-9.]+", word) is not None
    return True


class TextCommand(click.Command):
    """A command that takes texts.

    Says how to write a text that begins with a dash, and reads `--normalize` with no number behind it.

    `--normalize` alone is `--normalize 2`. What follows it is its value only where it looks like one, so that
    `embed --normalize "Hello!"` embeds the text, and `embed --normalize 2.5 "Hello!"` is an error.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does, with the two additions."""
        ctx.meta["refembed.literal"] = "--" in args  # then no word is anything but a text (cli/first_word.py)
        try:
            return super().parse_args(ctx, bind_norms(args))
        except click.NoSuchOption as e:
            if e.possibilities:
                raise
            message = f"{e.message} (A text that begins with a dash goes after `--`.)"
            raise click.NoSuchOption(e.option_name, message, ctx=e.ctx) from None


def bind_norms(args: list[str]) -> list[str]:
    """Write each `--normalize` together with its value: `--normalize`, `-1` becomes `--normalize=-1`."""
    bound: list[str] = []
    for i, arg in enumerate(args):
        if arg == "--":
            return bound + args[i:]
        if i and args[i - 1] in ("--normalize", "--embd-normalize") and looks_like_norm(arg):
            bound[-1] = f"--normalize={arg}"
        else:
            bound.append("--normalize=2" if arg in ("--normalize", "--embd-normalize") else arg)
    return bound


Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def own_options(command: click.Command) -> dict[str, bool]:
    """Every spelling of a command's options, and whether a value follows. That of a norm may be absent (bind_norms)."""
    return {
        name: not param.is_flag and param.name != "normalize"
        for param in command.params
        if isinstance(param, click.Option)
        for name in (*param.opts, *param.secondary_opts)
    }


MODEL_SPELLINGS = ("-m", "--model", "-hf", "-hfr", "--hf-repo")  # the last three are llama.cpp's
MODEL_HELP = "A GGUF file, a Hugging Face folder, minilm, or OWNER/REPO[:TYPE] on Hugging Face."

model_option: Decorator = click.option(
    *MODEL_SPELLINGS, "model", default="minilm", show_default=True, metavar="MODEL", help=MODEL_HELP
)


mmproj_option: Decorator = click.option(
    "--mmproj", metavar="FILE", help="The model's vision tower, a GGUF file: images can be embedded then."
)

image_option: Decorator = click.option(
    "--image",
    "images",
    multiple=True,
    metavar="FILE",
    help="An image that goes with TEXT, or pixels as .npy; repeatable.",
)


def model_argument(command: Callable[..., Any]) -> Callable[..., Any]:
    """MODEL as an argument, or with -m as elsewhere; the command gets it as `model`."""

    @functools.wraps(command)
    def gathered(*args: Any, model: str | None, model_option: str | None, **options: Any) -> Any:
        if model and model_option:
            raise click.UsageError("Give the model once: as the argument or with -m.")
        if not (model or model_option):
            raise click.UsageError("Missing argument 'MODEL'.")
        return command(*args, model=model or model_option, **options)

    decorated: Callable[..., Any] = gathered
    decorated = click.option(*MODEL_SPELLINGS, "model_option", metavar="MODEL", help="The same as the argument.")(
        decorated
    )
    return click.argument("model", required=False)(decorated)


def use_threads(ctx: click.Context, param: click.Parameter, value: int | None) -> None:
    """Share so many cores from here on. BLAS reads its number from the environment, once, as NumPy is imported."""
    if value is None:
        return
    from refembed.kernels.blas import VARIABLES
    from refembed.kernels.threads import available, use

    n = value if value > 0 else available()  # llama.cpp takes 0 and less for all
    use(n)
    os.environ.update(dict.fromkeys(VARIABLES, str(n)))


threads_option: Decorator = click.option(
    "-t", "--threads", type=int, envvar=["REFEMBED_THREADS", "LLAMA_ARG_THREADS"], metavar="N", expose_value=False,
    callback=use_threads, help="Cores to use, also by BLAS.  [default: all]",
)  # fmt: skip


def numerics_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--numerics, which llama.cpp its `ggml` equals, and --semantics.

    The command gets all of them as `numerics`, as Embedder.load takes them.
    """

    @functools.wraps(command)
    def gathered(*args: Any, numerics: str, semantics: str, **options: Any) -> Any:
        given = {name: options.pop(name) for name in ("profile", "flash_attn", "repack")}
        asked = {name: value for name, value in given.items() if value is not None}
        if asked and numerics != "ggml":
            spelled = ", ".join("--" + name.replace("_", "-") for name in asked)
            raise click.UsageError(f"{spelled}: only --numerics ggml has a choice there.")
        if (memory_budget := options.pop("memory_budget")) is not None:
            if numerics == "ggml":
                raise click.UsageError("--memory-budget: --numerics ggml has no choice there.")
            asked["memory_budget"] = memory_budget
        if (device := options.pop("device")) is not None:
            fits = numerics != "cupy" if device == CPU else numerics in ("auto", "cupy")
            if not fits:
                raise click.UsageError(f"--device: --numerics {numerics} has no choice there.")
            if device != CPU:
                numerics, asked["device"] = "cupy", device
        if (precision := options.pop("precision")) is not None:
            if numerics != "cupy":
                raise click.UsageError(f"--precision: --numerics {numerics} has no choice there (--device cuda has).")
            asked["precision"] = precision
        return command(*args, numerics={"numerics": numerics, "semantics": semantics, **asked}, **options)

    decorated: Callable[..., Any] = gathered
    for add in reversed(NUMERICS_OPTIONS):
        decorated = add(decorated)
    return decorated


NUMERICS_OPTIONS: tuple[Decorator, ...] = (
    click.option(
        "--numerics",
        type=click.Choice(NUMERICS),
        default="auto",
        show_default=True,
        help="How numbers are computed: exact is float64 by the textbook, ggml rounds where llama.cpp's CPU backend "
        "does, bit for bit, fast is float32, int8 rounds activations to 8 bits where weights are quantized, bf16 "
        "rounds activations and weights to bfloat16, cupy is float32 on an NVIDIA GPU; auto is fast.",
    ),
    click.option(
        "--device",
        "-dev",
        callback=read_device,
        metavar="WHERE",
        help="cpu, or cuda, or cuda:N for GPU number N: --numerics cupy there.  [default: as --numerics says]",
    ),
    click.option(
        "--precision",
        type=click.Choice(PRECISIONS),
        help="cupy: what matrices and what they multiply are rounded to, for tensor cores; sums and all else are of "
        "float32.  [default: float32, nothing]",
    ),
    click.option(
        "--profile", type=click.Choice(PROFILES), help="Which build of llama.cpp ggml equals.  [default: avx2]"
    ),
    click.option(
        "--flash-attn/--no-flash-attn",
        default=None,
        help="ggml: as llama.cpp with its flash attention on, the default.",
    ),
    click.option(
        "--repack/--no-repack", default=None, help="ggml: as llama.cpp with its weights interleaved, the default."
    ),
    click.option(
        "--semantics",
        type=click.Choice(SEMANTICS),
        default="llama.cpp",
        show_default=True,
        help="Which model: llama.cpp's graph of it, or the original, as Hugging Face runs it (exact and fast only).",
    ),
    click.option(
        "--memory-budget",
        callback=read_budget,
        metavar="MIB",
        help="All but ggml: how much memory decoded weights may take; 0, or mapped, decodes all as they are used.  "
        "[default: a quarter of the machine's]",
    ),
)

pooling_option: Decorator = click.option(
    "--pooling",
    default="native",
    show_default=True,
    metavar="NAME",
    help=f"From the tokens' vectors to the text's: {POOLINGS}. native is what the model's file says.",
)

normalize_option: Decorator = click.option(
    "--normalize",
    "--embd-normalize",
    callback=read_norm,
    metavar="[INT]",
    help="-1 none (the default of pooling rank), 0 max (largest magnitude 32760), 1 taxicab, 2 euclid (the default), "
    "p: the p-norm.",
)

lora_option: Decorator = click.option(
    "--lora",
    multiple=True,
    metavar="FILE[:SCALE]",
    help="Add a LoRA adapter, a GGUF file made for this model, SCALE times (1 if not given); repeatable. "
    "Several are added in this order.",
)

truncate_option: Decorator = click.option(
    "--truncate", is_flag=True, help="Cut texts that are too long for the model. Otherwise they are an error."
)

file_option: Decorator = click.option(
    "--file", "-f", metavar="FILE", help="Read texts from FILE, one a line; - is standard input."
)

json_option: Decorator = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def hush(ctx: click.Context, param: click.Parameter, value: bool) -> bool:
    """Without remarks nothing is said of compiling either."""
    if value:
        from refembed.kernels.llvm import compiling

        compiling.ask(None)
    return value


quiet_option: Decorator = click.option(
    "--quiet", "-q", is_flag=True, callback=hush, help="No remarks on stderr; warnings and errors stay."
)
