"""Counters, as llama-server's /metrics shows them (Prometheus text, version 0.0.4)."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence

SPAN = 10.0  # seconds that `recent` looks back


class Metrics:
    """What the server has done since it started. Safe to share between threads."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.started = int(time.time())  # seconds since 1970
        self.tokens = self.decodes = self.longest = self.busy_slots = self.processing = self.deferred = 0
        self.seconds = 0.0
        self.bucket_tokens, self.bucket_seconds = 0, 0.0  # since the last scrape
        self.texts = 0
        self.latest: deque[tuple[float, int]] = deque()  # when a batch was done, and its tokens: the last SPAN seconds

    def computed(self, lengths: Sequence[int], jobs: int, seconds: float) -> None:
        """A batch of texts with so many tokens each, of so many requests, took so long."""
        with self.lock:
            self.tokens += sum(lengths)
            self.bucket_tokens += sum(lengths)
            self.seconds += seconds
            self.bucket_seconds += seconds
            self.longest = max(self.longest, *lengths)
            self.texts += len(lengths)
            self.decodes += 1
            self.busy_slots += jobs
            self.latest.append((time.monotonic(), sum(lengths)))
            self.forget()

    def busy(self, processing: int, deferred: int) -> None:
        """So many requests are being computed, so many wait."""
        self.processing, self.deferred = processing, deferred

    def forget(self) -> None:
        """Drop what is older than SPAN."""
        while self.latest and self.latest[0][0] < time.monotonic() - SPAN:
            self.latest.popleft()

    def recent(self) -> float:
        """Tokens a second over the last SPAN seconds, waiting included."""
        with self.lock:
            self.forget()
            return sum(tokens for _, tokens in self.latest) / SPAN

    def text(self) -> str:
        """The scrape; the gauges cover the time since the one before."""
        with self.lock:
            rate = self.bucket_tokens / self.bucket_seconds if self.bucket_seconds else 0.0
            values = {
                "prompt_tokens_total": self.tokens,
                "prompt_seconds_total": self.seconds,
                "n_decode_total": self.decodes,
                "n_tokens_max": self.longest,
                "prompt_tokens_seconds": rate,
                "requests_processing": self.processing,
                "requests_deferred": self.deferred,
                "n_busy_slots_per_decode": self.busy_slots / max(self.decodes, 1),
            }
            self.bucket_tokens, self.bucket_seconds = 0, 0.0
        lines = []
        for name, kind, what in ITEMS:
            lines += [f"# HELP llamacpp:{name} {what}", f"# TYPE llamacpp:{name} {kind}"]
            lines.append(f"llamacpp:{name} {values.get(name, 0):g}")
        return "\n".join(lines) + "\n"


# name, type, help; those that no embedding moves are 0. server_task_result_metrics of tools/server/server-task.cpp
ITEMS = (
    ("prompt_tokens_total", "counter", "Number of prompt tokens processed, excluding cached tokens"),
    ("prompt_tokens_cached_total", "counter", "Number of prompt tokens reused from the cache"),
    ("prompt_seconds_total", "counter", "Total time spent processing prompts"),
    ("tokens_predicted_total", "counter", "Number of generation tokens processed"),
    ("tokens_predicted_seconds_total", "counter", "Total time spent generating tokens"),
    (
        "n_decode_total",
        "counter",
        "Total number of llama_decode() calls, excluding speculative decoding and multimodal decoding",
    ),
    ("n_tokens_max", "counter", "Largest observed sequence length (prompt + generation)"),
    ("spec_decode_num_draft_tokens_total", "counter", "Speculative: Total draft tokens generated"),
    (
        "spec_decode_num_accepted_tokens_total",
        "counter",
        "Speculative: Total draft tokens accepted by the target model",
    ),
    ("spec_decode_num_drafts_total", "counter", "Speculative: Total speculative decoding verification steps"),
    ("prompt_tokens_seconds", "gauge", "Average prompt throughput in tokens/s"),
    ("predicted_tokens_seconds", "gauge", "Average generation throughput in tokens/s"),
    ("requests_processing", "gauge", "Number of requests processing"),
    ("requests_deferred", "gauge", "Number of requests deferred"),
    ("n_busy_slots_per_decode", "gauge", "Average number of busy slots per llama_decode() call"),
)
