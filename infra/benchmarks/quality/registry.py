"""All methods by name, the cheap and the headline ones first."""

from infra.benchmarks.quality.calibration import penalty_space, recalibrate
from infra.benchmarks.quality.dense import (
    bottleneck_space,
    fit_bottleneck,
    fit_dense,
    fit_head,
    fit_lora,
    fit_lora_with_statistics,
    lora_space,
    rate_space,
)
from infra.benchmarks.quality.generator import ceiling_space, fit_ceiling, fit_oracle
from infra.benchmarks.quality.methods import (
    GATED,
    Method,
    counts,
    counts_and_pairs,
    fit_base,
    kernel_space,
    kernels,
)
from infra.benchmarks.quality.past import by_day, earlier_days, earlier_days_and_pairs
from infra.benchmarks.quality.training import (
    continued,
    continued_space,
    fit_by_domain,
    fit_joint,
    joint_space,
)

NIGHT, PRETRAIN = "finetune", "pretrain"
METHODS: dict[str, Method] = {
    "base": Method(what="base, as it is", fit=fit_base),
    "platt": Method(
        what="Platt's slope and bias by domain",
        fit=recalibrate(with_slope=True),
        space=penalty_space,
    ),
    "bias": Method(what="bias by domain", fit=recalibrate(with_slope=False), space=penalty_space),
    "iak": Method(what="IAK, every kernel", fit=kernels(), space=kernel_space, verb=NIGHT),
    "iak_gated": Method(what="IAK after the gate", fit=GATED, searched_as="iak"),
    "iak_counts": Method(
        what="IAK with counts, out of fold",
        fit=kernels(statistics=counts),
        searched_as="iak",
    ),
    "iak_pairs": Method(
        what="IAK with counts and co-occurrence",
        fit=kernels(statistics=counts_and_pairs),
        searched_as="iak",
    ),
    "iak_past": Method(
        what="IAK with counts of earlier days",
        fit=by_day(kernels(statistics=earlier_days)),
        searched_as="iak",
        needs_times=True,
    ),
    "iak_past_pairs": Method(
        what="IAK with counts and co-occurrence of earlier days",
        fit=by_day(kernels(statistics=earlier_days_and_pairs)),
        searched_as="iak",
        needs_times=True,
    ),
    "iak_no_kl": Method(
        what="IAK without the rate", fit=kernels(kernel__beta=0.0), searched_as="iak"
    ),
    "iak_one_phase": Method(
        what="IAK without compression",
        fit=kernels(pooled__compression_epochs=0),
        searched_as="iak",
    ),
    "iak_h_only": Method(
        what="IAK, encoder reads h alone", fit=kernels(kernel__reads="h"), searched_as="iak"
    ),
    "iak_no_pooling": Method(
        # A rate of 1e-12 leaves the pooled kernel as it starts, which changes no logit.
        what="IAK, every domain from nothing",
        fit=kernels(pooled__lr=1e-12, domain__max_epochs=8, domain__compression_epochs=1),
        searched_as="iak",
    ),
    "bottleneck": Method(
        what="plain bottleneck adapter", fit=fit_bottleneck, space=bottleneck_space
    ),
    "head": Method(what="towers by domain", fit=fit_head, space=rate_space(1e-3)),
    "lora": Method(what="LoRA on trunk and towers", fit=fit_lora, space=lora_space),
    "lora_past": Method(
        what="LoRA with counts of earlier days",
        fit=by_day(fit_lora_with_statistics, earlier_days),
        searched_as="lora",
        needs_times=True,
    ),
    "dense": Method(what="trunk and towers by domain", fit=fit_dense, space=rate_space(3e-4)),
    "continued": Method(
        what="continued training of everything",
        fit=continued(keeps_state=True),
        space=continued_space(has_state=True),
        verb=PRETRAIN,
    ),
    "continued_without_state": Method(
        what="the same, optimiser's state lost",
        fit=continued(keeps_state=False),
        space=continued_space(has_state=False),
        verb=PRETRAIN,
    ),
    "full": Method(what="full fine-tune by domain", fit=fit_by_domain, searched_as="continued"),
    "joint": Method(
        what="new base on old and recent rows", fit=fit_joint, space=joint_space, verb=PRETRAIN
    ),
    "oracle": Method(what="true probabilities", fit=fit_oracle(""), knows_truth=True),
    "oracle_global": Method(
        what="true probabilities, what all domains share",
        fit=fit_oracle("_global"),
        knows_truth=True,
    ),
    "ceiling": Method(
        what="ceiling of a frozen base: the generator's features, fitted on recent rows",
        fit=fit_ceiling,
        space=ceiling_space,
        knows_truth=True,
    ),
}
