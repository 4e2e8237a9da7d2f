"""Pure tensor functions: no state, no configuration object, no device moves. Shapes are in every docstring.

B sequences of up to T tokens; a mask is 1 on the tokens that the policy sampled. Column t of a [B, T] tensor of
log-probabilities belongs to the token in column t: log π(ids[:, t] | ids[:, :t]); where there is nothing to say it is 0,
or another finite number. Arithmetic is in float32, or in float64 if that is given.
"""

from .advantages import (
    batch_mean,
    group_centred,
    group_mean,
    group_normalized,
    group_normalized_steps,
    group_pass_at_k,
    moving_average,
    opo,
    reinforce,
    remax,
    rloo,
    spo,
)
from .aggregation import Aggregation, aggregate, skewness, token_weights
from .kl import absolute, adaptive_kl, k1, k2, k3, penalty_kl, rewards_with_kl
from .logprobs import head_logprobs, linear_logprobs, logprobs_and_entropy
from .losses import (
    cispo,
    policy_gradient_clip,
    policy_gradient_penalty,
    reinforce_loss,
    sapo,
    unlikelihood_loss,
    value_loss,
)
from .ratios import importance_mask, importance_weights, log_ratio, sequence_log_ratio
from .returns import discounted_returns, gae, whiten
from .selection import best_of_group, cppo_keep
from .sequence_losses import gmpo, gspo, gspo_token, gvpo
from .step_advantages import anchored, returns_to_go
from .tree_advantages import shared_mean, token_origins, tree_normalized, tree_roots

__all__ = [
    "Aggregation",
    "absolute",
    "adaptive_kl",
    "aggregate",
    "anchored",
    "batch_mean",
    "best_of_group",
    "cispo",
    "cppo_keep",
    "discounted_returns",
    "gae",
    "gmpo",
    "group_centred",
    "group_mean",
    "group_normalized",
    "group_normalized_steps",
    "group_pass_at_k",
    "gspo",
    "gspo_token",
    "gvpo",
    "head_logprobs",
    "importance_mask",
    "importance_weights",
    "k1",
    "k2",
    "k3",
    "linear_logprobs",
    "log_ratio",
    "logprobs_and_entropy",
    "moving_average",
    "opo",
    "penalty_kl",
    "policy_gradient_clip",
    "policy_gradient_penalty",
    "reinforce",
    "reinforce_loss",
    "remax",
    "returns_to_go",
    "rewards_with_kl",
    "rloo",
    "sapo",
    "sequence_log_ratio",
    "shared_mean",
    "skewness",
    "spo",
    "token_origins",
    "token_weights",
    "tree_normalized",
    "tree_roots",
    "unlikelihood_loss",
    "value_loss",
    "whiten",
]
