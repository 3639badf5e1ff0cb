"""Name every number of a night, for MLflow and TensorBoard alike.

    night/rows_tuned                            of the whole night
    kernels/promoted, phase_s/tune, unseen/item_id, drift/price, window/ctr/rows
    domain/pooled/gain                          of the pooled kernel
    domain/city.rome/gain                       of a domain with one key
    domain/city.rome/daypart.noon/ctr/auc_candidate    of a domain with two keys, by task

Slashes make groups in both user interfaces.
"""

import hashlib
import math
import re
from collections.abc import Iterable, Iterator

from iak.pipeline.report.domain_lines import shown_domains
from iak.schemas.night import METHODS, DomainNight, NightRecord, Scores

_PLAIN = re.compile(r"[\w-]+")
_OTHER = re.compile(r"[^\w-]")
_MAX_WORD_CHARACTERS = 48
"""Characters of a word, and of the value of a domain's key, that are shown as they are."""
_MAX_DOMAIN_CHARACTERS = 140
"""Characters of a domain's part of a name. MLflow refuses names of more than 250."""


def night_numbers(record: NightRecord) -> dict[str, float]:
    """Return name -> value of every finite number of a night.

    Numbers that are absent, infinite or not a number are left out: MLflow 3.17 stores infinity as
    1.797e308, which would flatten every chart. Of very many domains, only those that the page shows
    have numbers.
    """
    named = [
        *(("night/" + name, value) for name, value in _night_values(record).items()),
        *_group("kernels", record.counts.items()),
        *_group("phase_s", record.timings_s.items()),
        *_group("unseen", record.unseen.items()),
        *_group("drift", ((line.name, line.index) for line in record.drift)),
        *_of_windows(record),
        *_of_traffic(record),
    ]
    for domain in shown_domains(record):
        named += _of_domain(domain)
    return {
        name: float(value) for name, value in named if value is not None and math.isfinite(value)
    }


def plain_word(text: str) -> str:
    """Return a word of letters, digits, `_`, `-` and `.`; different texts have different words.

    A text that has other characters, or too many, is cut and ends with a part of its SHA-256. The
    dot before that part distinguishes it from every text that is a plain word already.
    """
    if _PLAIN.fullmatch(text) and len(text) <= _MAX_WORD_CHARACTERS:
        return text
    return f"{_OTHER.sub('_', text)[:_MAX_WORD_CHARACTERS]}.{_digest(text)}"


def domain_path(pairs: Iterable[tuple[str, str]]) -> str:
    """Return the part of a name that means a domain, `pooled` for the domain without keys."""
    path = "/".join(f"{plain_word(key)}.{plain_word(value)}" for key, value in pairs) or "pooled"
    if len(path) <= _MAX_DOMAIN_CHARACTERS:
        return path
    # The cut ends a word, so that no name ends its group with a slash.
    return f"{path[:_MAX_DOMAIN_CHARACTERS].rstrip('/')}.{_digest(path)}"


def _digest(text: str) -> str:
    # `surrogatepass`: a lone surrogate is not UTF-8, and still needs a name of its own.
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def _group(name: str, parts: Iterable[tuple[str, float]]) -> Iterator[tuple[str, float]]:
    return ((f"{name}/{plain_word(part)}", value) for part, value in parts)


def _night_values(record: NightRecord) -> dict[str, float | None]:
    ended, after = record.ended_at, record.registry_after
    return {
        "exit_code": record.exit_code,
        "attempts": record.attempts,
        "duration_s": (ended - record.started_at).total_seconds() if ended else None,
        "rows_tuned": record.rows_tuned,
        "rows_from_cache": record.rows_from_cache,
        "parameters_per_kernel": record.parameters_per_kernel,
        "worker_seconds": record.worker_seconds,
        "cost": record.cost,
        "base_age_days": record.base_age_days,
        "registry_generation": record.registry_before if after is None else after,
        "notices": len(record.notices),
    }


def _of_traffic(record: NightRecord) -> Iterator[tuple[str, float]]:
    for way, carried in record.traffic.by_way().items():
        yield f"traffic/{way}/files", carried.files
        yield f"traffic/{way}/bytes", carried.bytes


def _of_windows(record: NightRecord) -> Iterator[tuple[str, float]]:
    for window in record.windows:
        yield f"window/{plain_word(window.task)}/rows", window.rows
        yield f"window/{plain_word(window.task)}/positives", window.positives


def _of_domain(domain: DomainNight) -> Iterator[tuple[str, float | None]]:
    decision, verdict = domain.decision, domain.verdict
    values = {
        "promoted": float(domain.outcome == "promoted"),
        "gain": verdict.gain if verdict else None,
        "gain_low": verdict.gain_low if verdict else None,
        "new_rows": decision.new_rows,
        "window_rows": decision.window_rows,
        "age_days": decision.age_days,
        "drift": decision.drift,
        "rate": domain.rate,
        "active_units": domain.code.active_units if domain.code else None,
        "prior_distance": domain.code.prior_distance if domain.code else None,
        "scratch_gain": domain.scratch_gain,
        "log_evidence": domain.log_evidence,
        "worker_seconds": domain.worker_seconds,
        "cost": domain.cost,
    }
    path = f"domain/{domain_path(decision.domain)}"
    yield from ((f"{path}/{name}", value) for name, value in values.items())
    for scores in domain.scores:
        for name, value in _of_task(scores):
            yield f"{path}/{plain_word(scores.task)}/{name}", value


def _of_task(scores: Scores) -> Iterator[tuple[str, float | None]]:
    yield "rows", scores.rows
    yield "positives", scores.positives
    for metric in ("auc", "gauc", "log_loss", "calibration"):
        for method, value in zip(METHODS, getattr(scores, metric), strict=True):
            yield f"{metric}_{method}", value
    if scores.delta_auc is not None:
        yield from zip(
            ("delta_auc", "delta_auc_low", "delta_auc_high"), scores.delta_auc, strict=True
        )
