"""Plausible nights of a service that sells food in forty cities: records, without any training."""

import hashlib
from datetime import UTC, date, datetime, timedelta

import numpy as np

from iak.schemas.night import (
    Decision,
    DomainNight,
    DriftLine,
    NightRecord,
    NightShadow,
    PartitionDay,
    Scores,
    TaskWindow,
)
from iak.schemas.traffic import Carried, NightTraffic
from iak.schemas.tuning import CodeDiagnostics, TrainingPoint
from iak.schemas.verdict import Comparison, TaskVerdict, Verdict

CITIES = (
    *("shanghai", "beijing", "shenzhen", "guangzhou", "chengdu", "hangzhou", "chongqing", "wuhan"),
    *("suzhou", "xian", "nanjing", "tianjin", "changsha", "dongguan", "ningbo", "foshan", "hefei"),
    *("qingdao", "jinan", "wuxi", "xiamen", "fuzhou", "kunming", "harbin", "wenzhou", "shenyang"),
    *("dalian", "nanning", "changchun", "quanzhou", "shijiazhuang", "guiyang", "nanchang"),
    *("jinhua", "changzhou", "jiaxing", "nantong", "taiyuan", "xuzhou", "zhuhai"),
)
TASKS = ("ctr", "ctcvr")
LAST = date(2026, 10, 28)
_WEEK = 7
NEEDED = 3.69
"""Evidence at which a chain is proved."""


def digest(*words):
    return hashlib.sha256(" ".join(map(str, words)).encode()).hexdigest()


TRAFFIC = NightTraffic(
    from_stores=Carried(files=412, bytes=48_120_000),
    to_stores=Carried(files=131, bytes=9_310_000),
    to_workers=Carried(files=24, bytes=1_204_000),
    from_workers=Carried(files=96, bytes=7_710_000),
)


def some_nights(count=15, *, domains=40, last=LAST, seed=1, **changes):
    """Nights that follow each other, oldest first; `changes` are fields of the newest record."""
    days = [last - timedelta(days=back) for back in reversed(range(count))]
    nights = [a_night(day, domains=domains, seed=seed, number=n) for n, day in enumerate(days)]
    return [*nights[:-1], nights[-1].model_copy(update=changes)]


def a_night(day=LAST, *, domains=40, seed=1, number=14):
    """One night of the pooled kernel and so many cities."""
    random = np.random.default_rng([seed, day.toordinal()])
    effects = np.random.default_rng(seed).normal(0.012, 0.006, domains + 1)
    names = [(), *((("city", name_of(k)),) for k in range(domains))]
    lines = [_domain(pairs, k, effects[k], random, number, day) for k, pairs in enumerate(names)]
    outcomes = {line.outcome for line in lines}
    started = datetime(day.year, day.month, day.day, 2, 30, tzinfo=UTC) + timedelta(days=1)
    seconds = {
        "list the log": 21.0 + random.uniform(0, 5),
        "decide": 3.2,
        "activations": 610.0 + random.uniform(0, 60),
        "tune": 2400.0 + random.uniform(-200, 400),
        "gate": 288.0,
        "promote": 1.7,
    }
    worker_seconds = sum(line.worker_seconds for line in lines)
    return NightRecord(
        id=digest("night", day)[:16],
        name="shop",
        night=day,
        status="finished",
        exit_code=5 if "failed" in outcomes else 4 if "held" in outcomes else 0,
        started_at=started,
        ended_at=started + timedelta(seconds=sum(seconds.values())),
        deadline=started.replace(hour=5, minute=30),
        base_fingerprint=digest("base"),
        base="/models/shop/base-2026-10-01",
        base_age_days=(day - date(2026, 10, 1)).days,
        registry="/models/shop/registry",
        registry_before=100 + number,
        registry_after=101 + number,
        run_dir=f"/nights/{day}/run",
        windows=_windows(day),
        days=_days(day, random),
        domains=lines,
        drift=_drift(random, number),
        unseen={
            "item_id": 0.02 + 0.002 * number,
            "user_id": 0.05 + 0.001 * number,
            "shop_id": 0.004,
        },
        is_scratch_night=number % _WEEK == 0,
        timings_s=seconds,
        parameters_per_kernel=48_392,
        rows_tuned=sum(line.decision.window_rows for line in lines[1:]),
        rows_from_cache=int(0.84 * sum(line.decision.window_rows for line in lines[1:])),
        worker_seconds=worker_seconds,
        cost=worker_seconds / 3600 * 0.9,
        traffic=TRAFFIC,
        notices=[
            "3 of 412 files were skipped: no footer (region=wuxi/dt=2026-10-24).",
            "1,204 rows are quarantined: 1,200 have no user, 4 a label that is neither 0 nor 1.",
        ],
        versions={"iak": "0.1.0", "torch": "2.13.0", "ray": "2.60.0"},
        machine={"cores": 32, "processor": "AMD EPYC 9654", "memory_gib": 251},
    )


def a_replay(day=LAST, task="ctr", **changes):
    """A replay of a night that held one kernel, and passed without it."""
    change = {
        "domain": "pooled", "task": task, "rows": 1_204_331, "mean": 0.0021,
        "mean_absolute": 0.0063, "quantiles": {}, "rank_correlation": 0.9713, "groups": 80_100,
        "delta_auc": 0.0012, "live_calibration": 1.012, "candidate_calibration": 1.004,
    }  # fmt: skip
    over = {"limit": "mean_change", "domain": "city=wuxi", "task": task, "seen": 0.0312}
    fields = {
        "first": day, "last": day, "against": "live", "limits": {"mean_change": 0.02},
        "rows": 1_204_331, "replays": 2, "latency": 1.01, "changes": [change],
        "exceeded": [over | {"allowed": 0.02}], "held": {"city=wuxi": "held by the replay"},
    }  # fmt: skip
    return NightShadow.model_validate(fields | changes)


def _windows(day):
    """The days that two tasks read; a purchase is known two days later."""
    ripe = day - timedelta(days=2)
    clicks = {"rows": 7_410_233, "positives": 402_120}
    purchases = {"rows": 389_004, "positives": 31_876}
    return [
        TaskWindow(task="ctr", first=day - timedelta(days=6), last=day, **clicks),
        TaskWindow(task="cvr", first=ripe - timedelta(days=6), last=ripe, **purchases),
    ]


def name_of(number):
    return CITIES[number] if number < len(CITIES) else f"town-{number}"


def _domain(pairs, k, effect, random, number, day):
    """What the night did for one domain; a few outcomes are fixed so that each is there."""
    window = int(7_400_000 if not pairs else 900_000 * 0.88**k + 2_000)
    outcome = _outcome(k, random)
    is_trained = outcome in ("promoted", "held")
    spread = 0.3 / np.sqrt(window * 0.1)
    gain = max(2.5 * spread / 4, float(effect / 4 + random.normal(0, spread / 4)))
    gain = gain if outcome == "promoted" else -0.0002
    scores = [_scores(t, effect, spread, window, random, outcome) for t in TASKS] * is_trained
    age = int(random.integers(1, 3)) if outcome != "waiting" else 4
    verdict = _verdict(gain, window, scores, outcome) if is_trained else None
    return DomainNight(
        decision=Decision(
            domain=list(pairs),
            level="domain" if pairs else "pooled",
            choice={"waiting": "wait", "failed": "train"}.get(outcome, "train"),
            reason=f"{window // 7:,} rows are new since its kernel of {day - timedelta(days=age)}."
            if outcome != "waiting"
            else f"Its expected worth, {window * 1e-7:.2f} nats a day, is beyond the budget.",
            new_rows=window // 7,
            window_rows=window,
            age_days=age if number else None,
            drift=abs(float(random.normal(0.02, 0.02))),
            worth=window * 3e-7,
        ),
        outcome=outcome,
        sentence=_sentence(outcome, verdict),
        served_by="own" if outcome != "held" or k % 2 else "pooled",
        bundle=digest("bundle", pairs, day),
        candidate=digest("candidate", pairs, day) if is_trained else None,
        verdict=verdict,
        scores=scores,
        rate=float(abs(random.normal(1.4, 0.3))) if is_trained else None,
        code=_code(k) if is_trained else None,
        path=_path(k) if is_trained else [],
        scratch_gain=float(random.normal(-0.0001, 0.0003)) if number % _WEEK == 0 else None,
        **(_evidence(number, random, day) if is_trained else {}),
        worker_seconds=window / 9_000 if outcome != "waiting" else 0.0,
        cost=window / 9_000 / 3600 * 0.9 if outcome != "waiting" else 0.0,
    )


def _code(k):
    """What a code does; that of the fourth domain has collapsed."""
    return CodeDiagnostics(
        units=16,
        active_units=0 if k == 3 else 16 - k % 9,
        label_nats={"ctr": (0.0412, 0.0436)},
        prior_distance=0.1 * k if k else None,
        largest_change=0.2,
    )


def _path(k):
    """Epochs of a code that first grows and is then compressed."""
    return [
        TrainingPoint(
            phase="matching", epoch=e, beta=1e-3, rate=1.5 - 0.1 * e, label_nats=0.001 * (k + e)
        )
        for e in (1, 2)
    ]


def _evidence(number, random, day):
    """How far a chain is."""
    evidence = float(0.25 * number + random.normal(0, 1))
    return {
        "log_evidence": evidence,
        "evidence_needed": NEEDED,
        "evidence_nights": number,
        "proved_on": day - timedelta(days=1) if evidence >= NEEDED else None,
        "canary": "the newest 24 hours: 1,204 gate rows, no harm shown",
    }


def _outcome(k, random):
    if k == 18:
        return "failed"
    if k >= 37:
        return "waiting"
    return "held" if k in (7, 15) or (k > 8 and random.random() < 0.06) else "promoted"


def _sentence(outcome, verdict):
    if outcome == "failed":
        return "Tuning broke in epoch 3: the loss of 1 of 128 steps is not finite."
    if outcome == "waiting":
        return "It did not train; its kernel of four days ago serves on."
    if outcome == "held":
        return "Held: log-loss of ctr is 1.2 % higher than the live kernel's, [0.4, 2.0] %."
    gain, least = verdict.gain, verdict.gain_low
    return f"Promoted: {gain:.5f} nats a row better than the base, at least {least:.5f}."


def _scores(task, effect, spread, window, random, outcome):
    gate = window // 10
    positives = int(gate * (0.055 if task == "ctr" else 0.0043))
    base = (0.694 if task == "ctr" else 0.741) + float(random.normal(0, 0.004))
    gain = float(effect + random.normal(0, spread)) * (1 if outcome == "promoted" else -0.4)
    gain *= 1.0 if task == "ctr" else 1.3
    half = 1.96 * spread * (1 if task == "ctr" else 2.5)
    rate = positives / gate
    tenths = (0.12, 0.24, 0.36, 0.5, 0.68, 0.88, 1.1, 1.45, 1.95, 3.1)
    errors = 1 + random.normal(0, 20 * spread, len(tenths))
    curve = [
        (rate * x, max(0.0, rate * x * float(error)), gate // 10)
        for x, error in zip(tenths, errors, strict=True)
    ]
    return Scores(
        task=task,
        rows=gate,
        positives=positives,
        auc=(base, base + gain * 0.9, base + gain),
        gauc=(base - 0.05, base - 0.05 + gain * 0.4, base - 0.05 + gain * 0.5),
        log_loss=(0.2101, 0.2089, 0.2086),
        calibration=(1.04, 0.991, float(1 + random.normal(0, 0.02))),
        delta_auc=(gain, gain - half, gain + half),
        reliability=curve,
    )


def _verdict(gain, window, scores, outcome):
    return Verdict(
        publish=outcome == "promoted",
        reason="gain is above the margin" if outcome == "promoted" else "gain within noise",
        gain=gain,
        gain_low=gain - 0.5 / np.sqrt(window),
        rows=window // 10,
        tasks=tuple(_task_verdict(each, outcome) for each in scores),
    )


def _task_verdict(scores, outcome):
    base, _, candidate = scores.auc
    value, low, high = scores.delta_auc
    return TaskVerdict(
        task=scores.task,
        rows=scores.rows,
        positives=scores.positives,
        negatives=scores.rows - scores.positives,
        cluster="user",
        clusters=scores.rows // 11,
        auc=Comparison(kernel=candidate, base=base, delta=value, low=low, high=high),
        judged=scores.positives > 50,
        holds=outcome == "held" and scores.task == "ctr",
        reason="",
    )


def _days(day, random):
    days = []
    for back in reversed(range(16)):
        each = day - timedelta(days=back)
        rows = int(1_060_000 * (1.25 if each.weekday() > 4 else 1) * random.uniform(0.95, 1.05))
        days.append(
            PartitionDay(day=each, state="complete", files=40, rows=rows, is_late=back == 9)
        )
    shrunken = days[-5].model_copy(
        update={
            "state": "shrunken",
            "rows": 353_021,
            "reason": "353,021 rows in city=wuxi and 2 more, where 1,060,000 are usual.",
        }
    )
    return [*days[:-5], shrunken, *days[-4:]]


def _drift(random, number):
    lines = [
        ("item_id", 0.031 + 0.01 * number, 0.004),
        ("hour", 0.002, 0.003),
        ("price", 0.11, 0.004),
        ("distance", 0.018, 0.004),
        ("device", 0.006, 0.003),
        ("label ctr", 0.042, 0.006),
        ("label cvr", -0.013, 0.021),
    ]
    words = {True: "changed", False: "stable"}
    return [
        DriftLine(
            name=name,
            index=index * random.uniform(0.9, 1.1),
            noise=noise,
            word="moved" if 0.04 < abs(index) < 0.1 else words[abs(index) >= 0.1],
        )
        for name, index, noise in lines
    ]
