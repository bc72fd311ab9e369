"""Pools scored by several reward models, each on its own, for the overoptimization lab."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from prudent.data import OnBad, Pools, choose_split, load_pools
from prudent.errors import DataError, ModelError
from prudent.evaluation._overopt import check_study_names
from prudent.posteriors import is_joint, load_scorer
from prudent.scoring import made_with, require_apart, score

__all__ = ["check_proxies", "score_proxies"]

_MOST_EMBEDDED = 500_000
"""Responses; the embeddings of more would take gigabytes, for two baselines."""
_MOST_COMPARED = 125_000
"""Responses; the factor of more would, of several seeds."""


def score_proxies(
    models: Mapping[str, Sequence[str | Path]],
    pools: Mapping[str, Any],
    output: str | Path,
    *,
    split: str | None = None,
    skip_bad: bool = False,
    **score_options: Any,
) -> dict[str, list[Path]]:
    """Score every pool with every seed of every proxy, a dataset each; what is there already is kept.

    All pools are read and checked first, and every local folder of a model is looked for. Of pools of up to half a
    million responses are stored embeddings, which minimum-Bayes-risk picks need, and of up to a quarter of that the
    factor of posteriors that have one, which exact contrasts need. What is there without a factor stays without one.

    Args:
        models: by the name of the proxy its seeds: folders or hub names, as `prudent.scoring.score` takes them.
        pools: by name, in any form that `prudent.data.load_pools` takes, or its result; the name of an only one may be
            empty. All need gold.
        output: folder; the datasets become `POOL-PROXY-SEED.parquet`, without a pool's name where it has none.
        split: the split of pools that have several; by default the only one.
        skip_bad: leave faulty rows of the pools out instead of stopping.
        score_options: further arguments of `score`, the same for all, without `embeddings` and `factor`.

    Returns:
        What `overopt` takes: datasets of each proxy by `POOL/PROXY`, or by `PROXY` for a pool without a name.

    Raises:
        DataError: a pool is faulty or has no gold, or a name is not usable.
        ModelError: a folder does not exist.
        PrudentError: the output is one of the models or pools, or lies in one.

    Example:
        >>> score_proxies({"lora": ["rm-0", "rm-1"]}, {"": "pool.jsonl"}, "scored")  # doctest: +SKIP
        {'lora': [PosixPath('scored/lora-0.parquet'), PosixPath('scored/lora-1.parquet')]}
    """
    keys = check_proxies(models, pools)
    require_apart(output, [*(model for seeds in models.values() for model in seeds), *pools.values()])
    on_bad: OnBad = "skip" if skip_bad else "error"
    loaded = {
        name: data
        if isinstance(data, Pools)
        else load_pools(data, split=choose_split(data, split) or "train", on_bad=on_bad)
        for name, data in pools.items()
    }
    for name, data in loaded.items():
        without = data.summary.num_without_gold == data.summary.num_responses
        if without or "gold" not in (data.rows.features or {}):
            raise DataError(
                f"{data.summary.source}: the pool{f' {name}' if name else ''} has no gold, and without true rewards "
                "nobody can say whether a proxy is hacked; give one with a column gold, or a gold model for it"
            )
    folder = Path(output)
    found: dict[str, list[Path]] = {}
    for (pool, proxy), key in keys.items():
        for seed, model in enumerate(models[proxy]):
            place = folder / f"{f'{pool}-' if pool else ''}{proxy}-{seed}.parquet"
            _score(model, loaded[pool], place, **score_options)
            found.setdefault(key, []).append(place)
    return found


def _score(
    model: str | Path,
    pool: Pools,
    place: Path,
    *,
    max_length: int | None = None,
    dtype: Any = None,
    overwrite: bool = False,
    **options: Any,
) -> None:
    """Score one pool by one model, which is let go of afterwards."""
    scorer = load_scorer(model, max_length=max_length, dtype=dtype)
    embeddings = pool.summary.num_responses <= _MOST_EMBEDDED
    factor = pool.summary.num_responses <= _MOST_COMPARED and is_joint(scorer)
    if not overwrite:
        factor = bool(made_with(place).get("factor", factor))
    score(scorer, pool, place, embeddings=embeddings, factor=factor, overwrite=overwrite, **options)


def check_proxies(models: Mapping[str, Sequence[str | Path]], pools: Collection[str]) -> dict[tuple[str, str], str]:
    """Look at what `score_proxies` is to be given, before long work: names, and folders of models.

    Args:
        models: as `score_proxies` takes them.
        pools: names of the pools.

    Returns:
        What each pool and proxy is called together.

    Raises:
        DataError: a name is not usable, or a model is there twice under one name.
        ModelError: a folder does not exist.

    Example:
        >>> check_proxies({"lora": ["someone/rm"]}, ["math"])
        {('math', 'lora'): 'math/lora'}
    """
    keys = {(pool, proxy): f"{pool}/{proxy}" if pool else proxy for pool in pools for proxy in models}
    for pool in pools:
        if "/" in pool:
            raise DataError(f"{pool!r} names no pool: leave out the /, which stands between a pool and a proxy")
    check_study_names(keys.values())
    for proxy, seeds in models.items():
        places = [str(Path(one).resolve()) for one in seeds]
        for one, place in zip(seeds, places, strict=True):
            _check_there(proxy, one)
            if places.count(place) > 1:
                raise DataError(f"{proxy}: {one} is there twice, and a model is no other seed of itself; leave one out")
    return keys


def _check_there(proxy: str, model: str | Path) -> None:
    """Refuse what can only be meant as a folder and is none."""
    text = str(model)
    is_path = isinstance(model, Path) or text.startswith((".", "/", "~")) or text.count("/") != 1
    if is_path and not Path(model).exists():
        raise ModelError(f"{proxy}: there is no folder {model}; give a trained reward model, or its name on the hub")
