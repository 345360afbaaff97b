"""llama.cpp's flags that mean nothing to whoever only embeds: accepted, so that command lines keep working.

They choose how text is written, where on a GPU weights lie, how a key-value cache is kept, how logs look. `split`
takes them out of a command line; what a command has as an option of its own stays. From common/arg.cpp of llama.cpp.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Mapping, Sequence

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


# name a model to download
FETCH = ("-hf", "-hfr", "--hf-repo", "-hff", "--hf-file", "-hft", "--hf-token", "-mu", "--model-url", "-dr",
         "--docker-repo")  # fmt: skip

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


def split(args: Sequence[str], own: Mapping[str, bool]) -> tuple[list[str], list[str]]:
    """Part a command line: what is left of it, and the flags that do nothing here. `--a_b` is `--a-b`.

    own  options that the command has: whether a value follows. They stay, with their values; so does all after `--`
    RequestError for a flag that would fetch a model.
    """
    kept: list[str] = []
    ignored: list[str] = []
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
            spelt = switch(name, value, rest)
            if ggml:
                kept.append(spelt)
            else:
                ignored.append(name)
        elif name in own:
            kept.append(name + equals + value)
            if own[name] and not equals and rest:
                kept.append(rest.popleft())
        elif name in FETCH:
            raise RequestError(f"{name}: nothing is fetched here", hint="-m FILE takes a model that is on this machine")
        elif name in ONE or name in NONE:
            ignored.append(name)
            if name in ONE and not equals and rest:
                rest.popleft()
        else:
            kept.append("--lora" + equals + value if name == "--lora-scaled" else name + equals + value)
    return kept, ignored


def switch(name: str, value: str, rest: deque[str]) -> str:
    """refembed's spelling of a switch; llama-server's `-fa` has its value behind it."""
    given = value or (rest[0] if name in ("-fa", "--flash-attn") and rest else "")
    if not value and given in (*OFF, "on", "1", "true", "enabled", "auto"):
        rest.popleft()
    return "--no-flash-attn" if given in OFF else SWITCHES[name]
