"""Studies as tidy tables: one observation a row, in long form."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from prudent.evaluation._curve_types import Curve, Estimate
from prudent.evaluation._study_types import BestOfNStudy

__all__ = ["curves_table", "laws_table", "outcomes_table", "strengths_table", "verdicts_table"]

_STUDY = [("pool", pa.string()), ("proxy", pa.string()), ("num_seeds", pa.int32())]
_GOLD = [("gold", pa.float64()), ("gold_low", pa.float64()), ("gold_high", pa.float64())]
_CURVES = pa.schema(
    [
        *_STUDY,
        ("seed", pa.int32()),
        *((name, pa.string()) for name in ("curve", "kind", "utility", "strategy", "scale")),
        ("n", pa.int32()),
        ("kl", pa.float64()),
        *_GOLD,
        *((name, pa.float64()) for name in ("gold_standard_error", "proxy_mean", "variance", "length")),
        ("effective_size", pa.float64()),
    ]
)
_VERSUS = (
    "first",
    "shuffled",
    "longest",
    "marginal",
    "oracle_n",
    "hedged_n",
    "top_k",
    "soft",
    "pessimism",
    "mbr",
    "consensus",
)


def _of(*names: str) -> list[tuple[str, pa.DataType]]:
    """Columns of estimates."""
    return [(f"{name}{end}", pa.float64()) for name in names for end in ("", "_low", "_high")]


_OUTCOMES = pa.schema(
    [
        *_STUDY,
        *((name, pa.string()) for name in ("curve", "kind", "utility", "strategy", "scale")),
        *((name, pa.int32()) for name in ("peak_n", "peak_n_low", "peak_n_high")),
        *_of("gain", "drop"),
        ("drop_p_value", pa.float64()),
        *_of("kept", *(f"minus_{name}" for name in _VERSUS)),
        ("share_above_first", pa.float64()),
    ]
)
_STRENGTHS = pa.schema(
    [
        *_STUDY,
        *((name, pa.string()) for name in ("family", "parameter", "text", "scale")),
        *((name, pa.float64()) for name in ("strength", "relative", "chosen")),
        ("n", pa.int32()),
        *_GOLD,
    ]
)
_LAWS = pa.schema(
    [
        *_STUDY,
        *((name, pa.string()) for name in ("curve", "scale", "form")),
        *_of("alpha", "beta"),
        ("r_squared", pa.float64()),
        *_of("peak_kl"),
        ("peak_n", pa.float64()),
        *_of("peak_gain"),
        ("within", pa.bool_()),
    ]
)


_VERDICTS = pa.schema(
    [
        *_STUDY,
        ("optimized", pa.string()),
        ("scale", pa.string()),
        ("hacked", pa.bool_()),
        ("peak_n", pa.int32()),
        ("from_n", pa.int32()),
        *_of("drop"),
        ("p_value", pa.float64()),
        ("rescue", pa.string()),
        *_of("ahead", "held_out"),
    ]
)


def curves_table(studies: Mapping[str, BestOfNStudy]) -> pa.Table:
    """Every point of every curve on every scale of gold, of all seeds together and of each."""

    def rows() -> Iterator[dict[str, Any]]:
        for study, head in _heads(studies):
            for curve in study.curves:
                for scale in study.gold_scales or (None,):
                    yield from _points(study, curve, scale, head)

    return pa.Table.from_pylist(list(rows()), _CURVES)


def outcomes_table(studies: Mapping[str, BestOfNStudy]) -> pa.Table:
    """What each curve does on each scale of gold: peak, fall, what is kept, and leads over others at the largest n."""

    def rows() -> Iterator[dict[str, Any]]:
        for study, head in _heads(studies):
            for curve in study.curves:
                for scale, one in curve.outcomes.items():
                    yield {
                        **head,
                        **_names(curve),
                        "scale": scale,
                        "peak_n": one.peak_n,
                        "peak_n_low": one.peak_n_low,
                        "peak_n_high": one.peak_n_high,
                        **_columns("gain", one.gain),
                        **_columns("drop", one.drop),
                        "drop_p_value": one.drop_p_value,
                        **_columns("kept", one.kept),
                        **{
                            name: value
                            for other in _VERSUS
                            for name, value in _columns(f"minus_{other}", one.versus.get(other)).items()
                        },
                        "share_above_first": one.share_above_first,
                    }

    return pa.Table.from_pylist(list(rows()), _OUTCOMES)


def strengths_table(studies: Mapping[str, BestOfNStudy]) -> pa.Table:
    """Gold at every strength of every family, at every n."""

    def rows() -> Iterator[dict[str, Any]]:
        for study, head in _heads(studies):
            for family in study.families:
                for scale, bands in family.gold.items():
                    for place, band in enumerate(bands):
                        for point, n in enumerate(study.n_values):
                            yield {
                                **head,
                                "family": family.key,
                                "parameter": family.parameter,
                                "text": family.texts[place],
                                "scale": scale,
                                "strength": family.strengths[place],
                                "relative": None if family.relative is None else family.relative[place],
                                "chosen": family.chosen[place],
                                "n": n,
                                **_columns("gold", band.at(point)),
                            }

    return pa.Table.from_pylist(list(rows()), _STRENGTHS)


def laws_table(studies: Mapping[str, BestOfNStudy]) -> pa.Table:
    """Every law fitted."""

    def rows() -> Iterator[dict[str, Any]]:
        for study, head in _heads(studies):
            for key, scales in study.laws.items():
                for scale, fits in scales.items():
                    for one in fits:
                        plain = {name: value for name, value in asdict(one).items() if name in _LAWS.names}
                        estimates = {
                            name: value
                            for of in ("alpha", "beta", "peak_kl", "peak_gain")
                            for name, value in _columns(of, getattr(one, of)).items()
                        }
                        yield {**head, "curve": key, "scale": scale, **plain, **estimates}

    return pa.Table.from_pylist(list(rows()), _LAWS)


def verdicts_table(studies: Mapping[str, BestOfNStudy]) -> pa.Table:
    """Of each study on each scale of gold: is it hacked, from which n on, and what would have been better."""

    def rows() -> Iterator[dict[str, Any]]:
        for study, head in _heads(studies):
            for scale, one in study.verdicts.items():
                rescue = one.rescue
                yield {
                    **head,
                    "optimized": study.curves[0].key,
                    "scale": scale,
                    "hacked": one.hacked,
                    "peak_n": one.peak_n,
                    "from_n": one.from_n,
                    **_columns("drop", one.drop),
                    "p_value": one.p_value,
                    "rescue": None if rescue is None else rescue.key,
                    **_columns("ahead", None if rescue is None else rescue.ahead),
                    **_columns("held_out", None if rescue is None else rescue.held_out),
                }

    return pa.Table.from_pylist(list(rows()), _VERDICTS)


def _heads(studies: Mapping[str, BestOfNStudy]) -> Iterator[tuple[BestOfNStudy, dict[str, Any]]]:
    """Each study with what names it."""
    for key, study in studies.items():
        pool, _, proxy = key.rpartition("/")
        yield study, {"pool": pool or None, "proxy": proxy, "num_seeds": study.settings.num_seeds}


def _names(curve: Curve) -> dict[str, Any]:
    return {"curve": curve.key, "kind": curve.kind, "utility": curve.utility, "strategy": curve.strategy}


def _points(study: BestOfNStudy, curve: Curve, scale: str | None, head: dict[str, Any]) -> Iterator[dict[str, Any]]:
    errors = curve.standard_error or {}

    def at(band: str, place: int) -> float | None:
        return curve.bands[band].value[place] if band in curve.bands else None

    for place, n in enumerate(study.n_values):
        yield {
            **head,
            **_names(curve),
            "scale": scale,
            "n": n,
            "kl": None if curve.kl is None else curve.kl[place],
            **_columns("gold", None if scale is None else curve.bands[scale].at(place)),
            "gold_standard_error": errors[scale][place] if scale in errors else None,
            "proxy_mean": at("proxy", place),
            "variance": at("variance", place),
            "length": at("length", place),
            "effective_size": None if curve.effective_size is None else curve.effective_size[place],
        }
    for seed, values in enumerate(curve.by_seed.get(scale or "", ())):
        for n, value in zip(study.n_values, values, strict=True):
            yield {**head, "seed": seed, **_names(curve), "scale": scale, "n": n, "gold": value}


def _columns(name: str, estimate: Estimate | None) -> dict[str, float | None]:
    """An estimate as three columns."""
    if estimate is None:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
