"""A prompt in, candidates out: pools sampled from a policy, resumable, with gold where there is a model of it."""

from prudent.sampling._drawing import uniforms
from prudent.sampling._policy import Completion, Policy
from prudent.sampling._sample import fitting_prompts, sample_pool
from prudent.sampling._summary import SampleSummary

__all__ = ["Completion", "Policy", "SampleSummary", "fitting_prompts", "sample_pool", "uniforms"]
