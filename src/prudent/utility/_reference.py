"""The fixed reference responses of a prompt.

A rule that centers on the candidates at hand would depend on which are present. A reference set chosen once per prompt,
by a hash of the prompt and a seed, does not; and it is the same when a broken run resumes.
"""

import hashlib

import numpy as np
import numpy.typing as npt

__all__ = ["choose_references"]


def choose_references(num_candidates: int, num_references: int, seed: int, prompt_key: str) -> npt.NDArray[np.int64]:
    """Choose the reference responses of a prompt at random, the same ones every time.

    Every candidate gets a pseudo-random 64-bit key from (seed, prompt, position) by SplitMix64; the smallest keys win:
    no library's generator is involved that might change between versions, and the file's order (which in some pools is
    the order of model quality) plays no part.

    Args:
        num_candidates: n, responses of the prompt.
        num_references: how many to choose; all of them where n is smaller.
        seed: the run's seed.
        prompt_key: what names the prompt, its text for instance.

    Returns:
        Ascending positions [min(num_references, n)].

    Raises:
        ValueError: a count is negative, or no reference is asked for.

    Example:
        >>> choose_references(100, 3, seed=0, prompt_key="Why is the sky blue?").tolist()
        [9, 66, 76]
        >>> choose_references(2, 3, seed=0, prompt_key="Why is the sky blue?").tolist()
        [0, 1]
    """
    if num_candidates < 0 or num_references < 1:
        raise ValueError(f"cannot choose {num_references} references among {num_candidates} candidates")
    digest = hashlib.blake2b(f"{seed}\0{prompt_key}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    golden = np.uint64(0x9E3779B97F4A7C15)
    with np.errstate(over="ignore"):
        state = np.uint64(int.from_bytes(digest, "little")) + golden * np.arange(1, num_candidates + 1, dtype=np.uint64)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state ^= state >> np.uint64(31)
    return np.sort(np.argsort(state, kind="stable")[:num_references]).astype(np.int64)
