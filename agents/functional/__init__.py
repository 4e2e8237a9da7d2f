"""Pure tensor functions: no state, no configuration object, no device moves. Shapes are in every docstring.

B sequences of up to T tokens; a mask is 1 on the tokens that the policy sampled. Column t of a [B, T] tensor of
log-probabilities belongs to the token in column t: log π(ids[:, t] | ids[:, :t]).
"""

from .advantages import group_normalized
from .aggregation import Aggregation, token_weights
from .kl import k3
from .logprobs import logprobs_and_entropy
from .losses import policy_gradient_clip

__all__ = ["Aggregation", "group_normalized", "k3", "logprobs_and_entropy", "policy_gradient_clip", "token_weights"]
