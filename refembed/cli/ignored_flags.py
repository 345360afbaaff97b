"""llama.cpp's flags that mean nothing to a program that only embeds: accepted, so that command lines keep working.

They choose how text is written, where on a GPU weights lie, how a key-value cache is kept, how logs look. `split`
takes them out of a command line; what a command has as an option of its own stays. From common/arg.cpp of llama.cpp.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
from collections import deque
from collections.abc import Mapping, Sequence

from refembed.cli.show import note
from refembed.errors import RequestError

# take a value
ONE = frozenset(
    """
    -tb --threads-batch -np --parallel -C --cpu-mask -Cr --cpu-range --cpu-strict --prio --poll -Cb --cpu-mask-batch
    -Crb --cpu-range-batch --cpu-strict-batch --prio-batch --poll-batch -lcs --lookup-cache-static -lcd
    --lookup-cache-dynamic --kv-unified-per-slot -n --predict --n-predict --keep -ctxcp --ctx-checkpoints
    --swa-checkpoints -cms --checkpoint-min-step -cram --cache-ram -r --reverse-prompt --samplers -s
    --seed --sampler-seq --sampling-seq --temp --temperature --top-k --top-p --min-p --top-nsigma --top-n-sigma
    --xtc-probability --xtc-threshold --typical --typical-p --repeat-last-n --repeat-penalty --presence-penalty
    --frequency-penalty --dry-multiplier --dry-base --dry-allowed-length --dry-penalty-last-n --dry-sequence-breaker
    --adaptive-target --adaptive-decay --dynatemp-range --dynatemp-exp --mirostat --mirostat-lr --mirostat-ent -l
    --logit-bias --grammar --grammar-file -j --json-schema -jf --json-schema-file -gan --grp-attn-n -gaw --grp-attn-w
    -ctk --cache-type-k -ctv --cache-type-v -dt --defrag-thold --image-min-tokens --image-max-tokens
    --mtmd-batch-max-tokens --video-fps --video-timestamp-interval --video-ffmpeg-dir --rpc -lm --load-mode -lzm
    --lazy-mode --numa -dev --device -ot --override-tensor -ncmoe --n-cpu-moe -ncffn --n-cpu-ffn -ngl --gpu-layers
    --n-gpu-layers -sm --split-mode -ts --tensor-split -mg --main-gpu -fit --fit -fitp --fit-print -fitt --fit-target
    -fitc --fit-ctx -to --timeout --sse-ping-interval --threads-http --cache-reuse --slot-save-path --media-path
    --chat-template-kwargs --reasoning-format -rea --reasoning --reasoning-effort --reasoning-budget
    --reasoning-budget-message --chat-template --chat-template-file -sps --slot-prompt-similarity
    --sleep-idle-seconds --log-file --log-prompts-dir --log-colors -lv --verbosity --log-verbosity --ui-config
    --webui-config --ui-config-file --webui-config-file --path --draft --draft-n --draft-max --draft-min --draft-n-min
    --draft-p-min --draft-p-split -md --model-draft -ngld --gpu-layers-draft --n-gpu-layers-draft -devd --device-draft
    -ctkd --cache-type-k-draft -ctvd --cache-type-v-draft -td --threads-draft -tbd --threads-batch-draft --spec-type
    """.split()  # noqa: SIM905  # a page of words reads better than a page of quotes
)

# stand alone
NONE = frozenset(
    """
    --swa-full --cache-idle-slots --no-cache-idle-slots --context-shift --no-context-shift --perf --no-perf
    --show-timings --no-show-timings -e --escape --no-escape -sp --special --spm-infill --ignore-eos -bs
    --backend-sampling -kvo --kv-offload -nkvo --no-kv-offload --no-host -cb --cont-batching -nocb --no-cont-batching
    --mmproj-auto --no-mmproj --no-mmproj-auto --mmproj-offload --no-mmproj-offload -cmoe --cpu-moe --check-tensors
    --op-offload --no-op-offload --mlock --mmap --no-mmap --reuse-port --ui-mcp-proxy --webui-mcp-proxy
    --no-ui-mcp-proxy --no-webui-mcp-proxy --ui --webui --no-ui --no-webui --cache-prompt --no-cache-prompt --jinja
    --no-jinja --reasoning-preserve --no-reasoning-preserve --skip-chat-parsing --no-skip-chat-parsing
    --prefill-assistant --no-prefill-assistant --lora-init-without-apply --log-jsonl --no-log-jsonl --offline
    --log-prefix --no-log-prefix --log-timestamps --no-log-timestamps --verbose-prompt --simple-io -v
    --verbose --log-verbose --warmup --no-warmup -kvu -no-kvu --kv-unified --no-kv-unified
    """.split()  # noqa: SIM905  # likewise
)


# name a model to download: `-hf` is `-m OWNER/REPO[:TYPE]` (cli/options.py), and these belong to it
HF_REPO = ("-hf", "-hfr", "--hf-repo")
HF_FILE, HF_TOKEN = ("-hff", "--hf-file"), ("-hft", "--hf-token")
# likewise, but from places where refembed fetches nothing
FETCH = ("-mu", "--model-url", "-dr", "--docker-repo")

# refembed's own as well, but of `--numerics ggml` only: elsewhere they change nothing
SWITCHES = {
    "--flash-attn": "--flash-attn",
    "-fa": "--flash-attn",
    "--no-flash-attn": "--no-flash-attn",
    "--repack": "--repack",
    "-nr": "--no-repack",
    "--no-repack": "--no-repack",
}
OFF = ("off", "0", "false", "disabled")

# where llama.cpp computes: layers on a GPU, and which. Any number of layers above 0 is all of them here
LAYERS, MAIN = ("-ngl", "--gpu-layers", "--n-gpu-layers"), ("-mg", "--main-gpu")
NO_CUPY = "computed on the CPU, as CuPy is not installed: pip install 'refembed[cuda]'"


def split(args: Sequence[str], own: Mapping[str, bool]) -> tuple[list[str], list[str]]:
    """Part a command line: what is left of it, and the flags that do nothing here. `--a_b` is `--a-b`.

    own  options that the command has: whether a value follows. They stay, with their values; so does all after `--`
    RequestError for a flag that would fetch a model from where refembed fetches none.
    """
    args = join_file(args)
    kept: list[str] = []
    ignored: list[str] = []
    args = with_device(args, own)
    ggml = "--numerics=ggml" in args or ("--numerics", "ggml") in itertools.pairwise(args)
    rest = deque(args)
    while rest:
        arg = rest.popleft()
        name, equals, value = arg.partition("=")
        if name.startswith("--"):
            name = name.replace("_", "-")
        if arg == "--":
            return [*kept, arg, *rest], ignored
        if name in SWITCHES:
            spelled = switch(name, value, rest)
            if ggml:
                kept.append(spelled)
            else:
                ignored.append(name)
        elif name in own:
            kept.append(name + equals + value)
            if own[name] and not equals and rest:
                kept.append(rest.popleft())
        elif name in FETCH:
            raise RequestError(f"{name}: nothing is fetched from there", hint="fetch the file; then -m FILE takes it")
        elif name in ONE or name in NONE:
            ignored.append(name)
            if name in ONE and not equals and rest:
                rest.popleft()
        else:
            kept.append("--lora" + equals + value if name == "--lora-scaled" else name + equals + value)
    return kept, ignored


def with_device(args: list[str], own: Mapping[str, bool]) -> list[str]:
    """`-ngl 99 -mg 1` as `--device=cuda:1`, for a command that has --device.

    Where CuPy is not installed the flags stay, to be ignored as others are, with a warning; so they do where --device
    or --numerics says where to compute.
    """
    end = args.index("--") if "--" in args else len(args)
    options, rest = args[:end], args[end:]
    layers, main = (value_of(options, names) for names in (LAYERS, MAIN))
    numerics = value_of(options, ("--numerics",)) or "auto"
    wanted = (layers is not None and layers not in ("0", "")) or (main is not None and numerics == "cupy")
    if "--device" not in own or not wanted or numerics not in ("auto", "cupy"):
        return args
    if value_of(options, ("-dev", "--device")) is not None:
        return args
    if numerics == "auto" and importlib.util.find_spec("cupy") is None:
        note(f"warning: {LAYERS[0]} {layers}: {NO_CUPY}", quiet="--log-disable" in options)
        return args
    return [f"--device=cuda:{main or 0}", *without(options, (*LAYERS, *MAIN)), *rest]


def value_of(args: Sequence[str], names: Sequence[str]) -> str | None:
    """What stands behind the last of some spellings of an option."""
    found = None
    for arg, following in itertools.zip_longest(args, args[1:], fillvalue=""):
        name, equals, value = arg.partition("=")
        if name.replace("_", "-") in names:
            found = value if equals else following
    return found


def without(args: Sequence[str], names: Sequence[str]) -> list[str]:
    """The words of a command line less some options and their values."""
    kept, rest = [], deque(args)
    while rest:
        arg = rest.popleft()
        name, equals, _ = arg.partition("=")
        if name.replace("_", "-") not in names:
            kept.append(arg)
        elif not equals and rest:
            rest.popleft()
    return kept


def join_file(args: Sequence[str]) -> list[str]:
    """`-hf OWNER/REPO -hff FILE` as `-hf OWNER/REPO:FILE`; the value of --hf-token becomes HF_TOKEN's.

    RequestError for a file without a repository.
    """
    kept: list[str] = []
    repo, file, rest = None, "", deque(args)
    while rest:
        arg = rest.popleft()
        name, equals, value = arg.partition("=")
        if arg == "--":
            kept += [arg, *rest]
            break
        if name.replace("_", "-") not in (*HF_REPO, *HF_FILE, *HF_TOKEN) or not (equals or rest):
            kept.append(arg)
            continue
        value = value if equals else rest.popleft()
        if name in HF_REPO:
            repo = len(kept)
            kept.append(f"--hf-repo={value}")
        elif name in HF_FILE:
            file = value
        else:
            os.environ["HF_TOKEN"] = value
    if file and repo is None:
        raise RequestError(f"{HF_FILE[1]} {file}: of which repository?", hint="-hf OWNER/REPO, or -m OWNER/REPO:FILE")
    if file and repo is not None:
        kept[repo] = f"{kept[repo].partition(':')[0]}:{file}"
    return kept


def switch(name: str, value: str, rest: deque[str]) -> str:
    """refembed's spelling of a switch; llama-server's `-fa` has its value behind it."""
    given = value or (rest[0] if name in ("-fa", "--flash-attn") and rest else "")
    if not value and given in (*OFF, "on", "1", "true", "enabled", "auto"):
        rest.popleft()
    return "--no-flash-attn" if given in OFF else SWITCHES[name]
