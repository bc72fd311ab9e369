"""How sure a reward model is: posteriors over its rewards, fitted on preferences and saved beside it."""

from prudent.posteriors._clean import CleanSummary, clean
from prudent.posteriors._clean_flips import FlipModel, fit_flips
from prudent.posteriors._clean_strength import PairStrength, cross_fitted_strength, folds_by_prompt
from prudent.posteriors._clean_treatments import Treated, Treatment, suspects, treat
from prudent.posteriors._ensemble import EnsembleScorer, ScoredMember
from prudent.posteriors._ensemble_places import EnsembleMember, is_ensemble
from prudent.posteriors._ensemble_store import load_ensemble, load_members, save_ensemble
from prudent.posteriors._fit import FitResult, PosteriorKind, PriorChoice, fit
from prudent.posteriors._fit_ensemble import EnsembleFitResult, MemberKind, fit_ensemble
from prudent.posteriors._heads import Diversity, HeadArchitecture, HeadsPosterior
from prudent.posteriors._heads_fit import fit_heads, fit_quantile_heads
from prudent.posteriors._heads_losses import HeadsKind
from prudent.posteriors._held_out import HeldOutFigures, PairFigures
from prudent.posteriors._joint import joint_rewards
from prudent.posteriors._last_layer import HeadChoice, LastLayerPosterior
from prudent.posteriors._load import is_joint, load_scorer, load_scorers
from prudent.posteriors._logistic import LogisticPosterior, fit_logistic, maximize_evidence
from prudent.posteriors._lora_fit import fit_lora_laplace
from prudent.posteriors._lora_laplace import LoraLaplacePosterior, Structure
from prudent.posteriors._make_ensemble import EnsembleResult, MemberFigures, ensemble
from prudent.posteriors._member_calibration import MemberCalibration, calibrate_member
from prudent.posteriors._pair_texts import PairTexts, encode_pairs
from prudent.posteriors._plain import PlainRewards
from prudent.posteriors._projection import PROJECTION, STORED_COLUMNS, Projection
from prudent.posteriors._protocol import Center, Contrasts, Posterior, Prediction
from prudent.posteriors._scorer import ModelScorer, Scorer, TokenizedPairs, TokenizedTexts
from prudent.posteriors._store import load_posterior, moved_head, save_posterior, saved_calibration, saved_posterior
from prudent.posteriors._train_ensemble import EnsembleTrainingResult, train_ensemble

__all__ = [
    "PROJECTION",
    "STORED_COLUMNS",
    "Center",
    "CleanSummary",
    "Contrasts",
    "Diversity",
    "EnsembleFitResult",
    "EnsembleMember",
    "EnsembleResult",
    "EnsembleScorer",
    "EnsembleTrainingResult",
    "FitResult",
    "FlipModel",
    "HeadArchitecture",
    "HeadChoice",
    "HeadsKind",
    "HeadsPosterior",
    "HeldOutFigures",
    "LastLayerPosterior",
    "LogisticPosterior",
    "LoraLaplacePosterior",
    "MemberCalibration",
    "MemberFigures",
    "MemberKind",
    "ModelScorer",
    "PairFigures",
    "PairStrength",
    "PairTexts",
    "PlainRewards",
    "Posterior",
    "PosteriorKind",
    "Prediction",
    "PriorChoice",
    "Projection",
    "ScoredMember",
    "Scorer",
    "Structure",
    "TokenizedPairs",
    "TokenizedTexts",
    "Treated",
    "Treatment",
    "calibrate_member",
    "clean",
    "cross_fitted_strength",
    "encode_pairs",
    "ensemble",
    "fit",
    "fit_ensemble",
    "fit_flips",
    "fit_heads",
    "fit_logistic",
    "fit_lora_laplace",
    "fit_quantile_heads",
    "folds_by_prompt",
    "is_ensemble",
    "is_joint",
    "joint_rewards",
    "load_ensemble",
    "load_members",
    "load_posterior",
    "load_scorer",
    "load_scorers",
    "maximize_evidence",
    "moved_head",
    "save_ensemble",
    "save_posterior",
    "saved_calibration",
    "saved_posterior",
    "suspects",
    "train_ensemble",
    "treat",
]
