"""Say in words what a kernel's code does on its gate rows."""

from iak.schemas.tuning import CodeDiagnostics


def code_words(rate: float | None, code: CodeDiagnostics | None) -> str:
    """Describe a code in one sentence; empty where nothing was measured.

    Args:
        rate: its mean rate in nats a row; None without gate rows.
        code: what it does on the gate rows; None without them.
    """
    if code is None:
        return ""
    parts = [f"{code.active_units} of {code.units} units active"]
    if rate is not None:
        parts.append(f"{rate:.2f} nats a row")
    if code.prior_distance is not None:
        parts.append(f"prior {code.prior_distance:.2g} nats from the pooled one")
    parts += [
        f"information about {task}: base at least {base:.4f} nats, kernel {kernel:.4f}"
        for task, (base, kernel) in code.label_nats.items()
    ]
    return "; ".join(parts)
