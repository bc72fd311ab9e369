import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from prudent.errors import DataError
from prudent.rewards import GaussianRewards, MemberRewards, TransformedRewards, concatenate, from_arrow


def gaussian(size: int = 5, basis_id: str | None = "a", factor_type: torch.dtype = torch.float32) -> GaussianRewards:
    generator = torch.Generator().manual_seed(size)
    factor = torch.randn(size, 3, generator=generator)
    return GaussianRewards(
        torch.randn(size, generator=generator),
        factor.square().sum(1),
        torch.arange(size) // 2 + 40,
        factor.to(factor_type),
        torch.rand(size, generator=generator),
        torch.arange(size) + 7,
        basis_id,
    )


def assert_same(a: GaussianRewards | MemberRewards, b: GaussianRewards | MemberRewards) -> None:
    assert type(a) is type(b)
    for name in ("group", "mean", "variance", "noise", "factor", "text_id", "members", "basis_id", "ddof"):
        left, right = getattr(a, name, None), getattr(b, name, None)
        if isinstance(left, torch.Tensor):
            assert right is not None
            assert left.dtype == right.dtype, name
            assert torch.equal(left.nan_to_num(-9.0), right.nan_to_num(-9.0)), name
        else:
            assert left == right


@pytest.mark.parametrize("factor_type", [torch.float16, torch.float32])
def test_gaussian_round_trip_through_parquet(tmp_path: Path, factor_type: torch.dtype) -> None:
    rewards = gaussian(factor_type=factor_type)
    rewards.mean[2] = math.nan
    table = rewards.to_arrow()
    assert table.schema.field("reward_mean").type == pa.float32()
    value_type = pa.float16() if factor_type == torch.float16 else pa.float32()
    assert table.schema.field("reward_factor").type == pa.list_(value_type, 3)
    pq.write_table(table, tmp_path / "rewards.parquet", row_group_size=2)
    assert_same(from_arrow(pq.read_table(tmp_path / "rewards.parquet")), rewards)


def test_members_round_trip_through_parquet(tmp_path: Path) -> None:
    rewards = MemberRewards(torch.randn(4, 3), torch.tensor([1, 1, 0, 0]), ddof=0, basis_id="e")
    pq.write_table(rewards.to_arrow(), tmp_path / "rewards.parquet")
    assert_same(from_arrow(pq.read_table(tmp_path / "rewards.parquet")), rewards)


def test_bare_gaussian_and_other_float_types() -> None:
    rewards = GaussianRewards(torch.zeros(2).double(), torch.ones(2).double())
    assert_same(from_arrow(rewards.to_arrow()), rewards)
    brain = GaussianRewards(torch.zeros(2), torch.ones(2), factor=torch.ones(2, 2, dtype=torch.bfloat16))
    assert brain.to_arrow().schema.field("reward_factor").type == pa.list_(pa.float32(), 2)


def test_slices_of_tables_and_nulls_read_right() -> None:
    rewards = gaussian(6)
    table = pa.concat_tables([rewards.to_arrow(), rewards.to_arrow()])
    assert_same(from_arrow(table.slice(4, 5)), concatenate([rewards, rewards])[4:9])
    holes = pa.table(
        {
            "prompt_id": pa.array([0, 0], pa.int32()),
            "reward_mean": pa.array([1.0, None], pa.float32()),
            "reward_variance": pa.array([1.0, None], pa.float32()),
            "reward_factor": pa.array([[1.0, 2.0], None], pa.list_(pa.float32(), 2)),
            "response": ["x", "y"],
        }
    )
    read = from_arrow(holes)
    assert isinstance(read, GaussianRewards)
    assert read.group.dtype == torch.int64
    assert read.mean.isnan().tolist() == [False, True]
    assert read.factor is not None
    assert read.factor[0].tolist() == [1, 2]
    assert read.factor[1].isnan().all()
    assert (read.noise == 0).all()


def test_a_table_without_metadata_is_known_by_its_columns() -> None:
    table = MemberRewards(torch.randn(4, 3)).to_arrow().replace_schema_metadata(None)
    assert isinstance(from_arrow(table), MemberRewards)


def test_bad_tables_are_named() -> None:
    with pytest.raises(DataError, match="no column reward_mean"):
        from_arrow(pa.table({"prompt_id": [0], "reward_variance": [1.0]}))
    with pytest.raises(DataError, match="kind 'other'"):
        from_arrow(gaussian().to_arrow().replace_schema_metadata({b"prudent": b'{"kind": "other"}'}))
    with pytest.raises(DataError, match="variance must not be negative"):
        from_arrow(pa.table({"prompt_id": [0], "reward_mean": [0.0], "reward_variance": [-1.0]}))
    ragged = {"prompt_id": [0], "reward_mean": [0.0], "reward_variance": [1.0], "reward_factor": [[1.0, 2.0]]}
    with pytest.raises(DataError, match="fixed-size list"):
        from_arrow(pa.table(ragged))


def test_concatenate_joins_every_part() -> None:
    whole = gaussian(9)
    assert_same(concatenate([whole[:3], whole[3:4], whole[4:]]), whole)
    members = MemberRewards(torch.randn(4, 3), torch.tensor([1, 1, 0, 0]))
    assert_same(concatenate([members[:1], members[1:]]), members)
    transformed = TransformedRewards(whole, torch.mul, parameters=(whole.mean,), num_samples=16)
    joined = concatenate([transformed[:5], transformed[5:]])
    torch.testing.assert_close(joined.mean, transformed.mean)


def test_concatenate_refuses_what_does_not_belong_together() -> None:
    with pytest.raises(ValueError, match="different basis_id: 'a', 'b'"):
        concatenate([gaussian(), gaussian(basis_id="b")])
    with pytest.raises(ValueError, match="different factor columns"):
        concatenate([gaussian(), GaussianRewards(torch.zeros(2), torch.ones(2), basis_id="a")])
    plain = gaussian()
    plain.text_id = None
    with pytest.raises(ValueError, match="different presence of text_id"):
        concatenate([gaussian(), plain])
    with pytest.raises(ValueError, match="different kinds"):
        concatenate([gaussian(), MemberRewards(torch.zeros(2, 2))])
    with pytest.raises(ValueError, match="different number of members"):
        concatenate([MemberRewards(torch.zeros(2, 2)), MemberRewards(torch.zeros(2, 3))])
    with pytest.raises(ValueError, match="different function"):
        concatenate([TransformedRewards(gaussian(), torch.neg), TransformedRewards(gaussian(), torch.abs)])
    with pytest.raises(ValueError, match="nothing"):
        concatenate([])
