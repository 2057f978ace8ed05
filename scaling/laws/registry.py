"""The published laws themselves. Every number was read where `place` says; see published.py for terms."""

from __future__ import annotations

import math

from scaling.laws.published import Point, PowerLaw, PublishedLaw, Spread, regression, through
from scaling.laws.surface import chinchilla_law
from scaling.quantities import PF_DAY

HOFFMANN = "Hoffmann et al. 2022, Training Compute-Optimal Large Language Models, arXiv:2203.15556"
MASSIVE_TEXT = "MassiveText, under one epoch; more than 400 models of 70M to 16B parameters"

# Table 3 (approach 1) and Table A3 (approach 2): compute-optimal FLOPs for these sizes.
TABLE_PARAMS = (4e8, 1e9, 1e10, 67e9, 175e9, 280e9, 520e9, 1e12, 1e13)
TABLE_3 = (1.92e19, 1.21e20, 1.23e22, 5.76e23, 3.85e24, 9.90e24, 3.43e25, 1.27e26, 1.30e28)
TABLE_A3_APPROACH_2 = (1.84e19, 1.20e20, 1.32e22, 6.88e23, 4.54e24, 1.18e25, 4.19e25, 1.59e26, 1.75e28)

PALM2_1E21 = Point(1e21, 3.35e9, "Table 1", "secondary")
PALM2_1E22 = Point(1e22, 10.7e9, "Table 1", "secondary")
PALM2_TRAINED = Point(
    1e22, 9.5e9, "section 2.2: 'in fact around 9.5B', the best of the sizes trained", "primary"
)

NANOCHAT_FLOPS = (1e18, 2e18, 5e18, 1e19)

_LAWS = (
    PublishedLaw(
        name="palm2",
        title="PaLM 2 technical report: two published optima",
        citation="Anil et al. 2023, PaLM 2 Technical Report, arXiv:2305.10403",
        place="Table 1's optimal sizes at 1e21 and 1e22 FLOPs [secondary source: as quoted by a reader]; the "
        "power law is drawn through these two points",
        evidence="secondary",
        gives="N(C)",
        count="total",
        flops="6nd",
        data="PaLM 2's pre-training mixture (not disclosed)",
        compute_min=1e19,
        compute_max=1e22,
        exponents="a = 0.504 through the two points; the report says that N and D grow in equal proportions",
        n_law=through(PALM2_1E21, PALM2_1E22),
        points=(PALM2_1E21, PALM2_1E22, PALM2_TRAINED),
        notes=(
            "Section 2.2 of the report itself names around 9.5B parameters at 1e22 FLOPs.",
            "Tokens follow from the report's own heuristic C = 6 N D; no interval was published.",
            "Which parameters N counts is not stated; total is assumed.",
            "These sizes belong to the scaling study, not to any PaLM 2 model, as the report says twice.",
        ),
        aliases=("palm-2",),
    ),
    PublishedLaw(
        name="chinchilla-1",
        title="Chinchilla, approach 1: envelope of training curves",
        citation=HOFFMANN,
        place="regression through the nine rows of Table 3 (which deviate from it by at most 1.3%)",
        evidence="derived",
        gives="N(C)",
        count="total",
        flops="6nd",
        data=MASSIVE_TEXT,
        compute_min=None,
        compute_max=1.3e22,
        exponents="a = 0.50 (10th and 90th percentile 0.488, 0.502)",
        n_law=regression(TABLE_3, TABLE_PARAMS),
        notes=("Extrapolation is counted from the largest run in the paper's Figure 4, 1.3e22 FLOPs.",),
        aliases=("chinchilla-approach-1", "hoffmann-1"),
    ),
    PublishedLaw(
        name="chinchilla-2",
        title="Chinchilla, approach 2: IsoFLOP profiles",
        citation=HOFFMANN,
        place="regression through the nine rows of Table A3 (which deviate from it by at most 3.3%)",
        evidence="derived",
        gives="N(C)",
        count="total",
        flops="6nd",
        data=MASSIVE_TEXT,
        compute_min=6e18,
        compute_max=3e21,
        exponents="a = 0.49 (10th and 90th percentile 0.462, 0.534)",
        n_law=regression(TABLE_A3_APPROACH_2, TABLE_PARAMS),
        aliases=("chinchilla-approach-2", "hoffmann-2"),
    ),
    PublishedLaw(
        name="chinchilla-3",
        title="Chinchilla, approach 3: parametric fit, at the precision of the paper's TeX source",
        citation=HOFFMANN,
        place="section 3.3, equation 10; coefficients at TeX precision from the analysis of Besiroglu et al.",
        evidence="primary",
        gives="loss",
        count="total",
        flops="6nd",
        data=MASSIVE_TEXT,
        compute_min=1.4e18,
        compute_max=1.3e22,
        exponents="a = 0.46 (10th and 90th percentile 0.454, 0.455: too narrow, see Besiroglu et al.)",
        surface=chinchilla_law(
            math.exp(0.5267228), math.exp(6.0073404), math.exp(6.0179186), 0.33917084, 0.2849083
        ),
        notes=(
            "Besiroglu et al. 2024 refute this fit: its optimiser stopped early. Kept for comparison.",
            "Compute range: of the runs in the paper's Figure 4.",
        ),
        aliases=("chinchilla-approach-3", "hoffmann-3", "hoffmann"),
    ),
    PublishedLaw(
        name="besiroglu",
        title="Besiroglu et al.: Chinchilla's approach 3, fitted properly",
        citation="Besiroglu et al. 2024, Chinchilla Scaling: A replication attempt, arXiv:2404.10102",
        place="the replication's estimates of E, A, B, alpha, beta with bootstrap standard errors",
        evidence="primary",
        gives="loss",
        count="total",
        flops="6nd",
        data="240 runs read off Chinchilla's Figure 4 (MassiveText)",
        compute_min=1.4e18,
        compute_max=1.3e22,
        exponents="a = 0.513 (standard error 0.02)",
        surface=chinchilla_law(1.8172, 482.01, 2085.43, 0.3478, 0.3658),
        spread=Spread(
            centre=(8.5e8, 1.7e10),
            # E, alpha, beta: the published standard errors. The first two, and the correlations, are ours.
            deviations=(0.0588, 0.0640, 0.02566, 0.0154, 0.0206),
            correlation=(
                (1.0, -0.377, -0.549, -0.988, 0.325),
                (-0.377, 1.0, -0.564, 0.321, -0.986),
                (-0.549, -0.564, 1.0, 0.588, 0.593),
                (-0.988, 0.321, 0.588, 1.0, -0.280),
                (0.325, -0.986, 0.593, -0.280, 1.0),
            ),
            place="published standard errors of E, alpha and beta; correlations from 1000 bootstrap refits "
            "of the authors' 240 points made for this project (they give a = 0.517 +- 0.020)",
        ),
        aliases=("besiroglu2024", "epoch", "besiroglu-2024"),
    ),
    PublishedLaw(
        name="kaplan",
        title="Kaplan et al.: the first compute-optimal law",
        citation="Kaplan et al. 2020, Scaling Laws for Neural Language Models, arXiv:2001.08361",
        place="N = 1.3e9 (C_min / PF-day)^0.73, quoted by a secondary source",
        evidence="secondary",
        gives="N(C)",
        count="non-embedding",
        flops="6nd",
        data="WebText2; 768 to 1.5B non-embedding parameters",
        compute_min=None,
        compute_max=None,
        exponents="a = 0.73",
        n_law=PowerLaw(1.3e9, 0.73, PF_DAY),
        notes=(
            "Superseded: counting without embeddings and head at small scale explains most of the gap "
            "between 0.73 and 0.50 (Pearce and Song 2024, arXiv:2406.12907; Porian et al., 2406.19146).",
            "C is C_min: compute at a batch far below the critical one.",
        ),
    ),
    PublishedLaw(
        name="muennighoff",
        title="Muennighoff et al.: data-constrained law, in its single-epoch form",
        citation="Muennighoff et al. 2023, Scaling Data-Constrained Language Models, arXiv:2305.16264",
        place="coefficients of the authors' repository (huggingface/datablations)",
        evidence="primary",
        gives="loss",
        count="total",
        flops="6nd",
        data="C4; up to 9B parameters and 900B tokens",
        compute_min=None,
        compute_max=None,
        exponents="a = 0.5 (alpha and beta were tied)",
        surface=chinchilla_law(
            math.exp(0.6254804), math.exp(6.255414), math.exp(7.3049974), 0.3526596, 0.3526596
        ),
        notes=("Repeated data (R_D* = 15.39, R_N* = 5.31) is not priced here: tokens are taken as unique.",),
        aliases=("data-constrained", "datablations"),
    ),
    PublishedLaw(
        name="deepseek",
        title="DeepSeek LLM: optimal model scale and data",
        citation="DeepSeek-AI 2024, DeepSeek LLM, arXiv:2401.02954",
        place="M = 0.1715 C^0.5243 and D = 5.8316 C^0.4757, quoted by a secondary source",
        evidence="secondary",
        gives="N(C)",
        count="non-embedding",
        flops="non-vocab",
        data="DeepSeek's own mixture; 8 budgets",
        compute_min=1e17,
        compute_max=3e20,
        exponents="a = 0.524 for M (0.450 on earlier data, 0.578 on OpenWebText2)",
        n_law=PowerLaw(0.1715 / 6, 0.5243),
        d_law=PowerLaw(5.8316, 0.4757),
        notes=(
            "The law is in M, the FLOPs per token without the vocabulary but with attention (C = M D). "
            "The size shown is M / 6, somewhat more than the non-embedding parameters.",
        ),
        aliases=("deepseek-llm",),
    ),
    PublishedLaw(
        name="llama3",
        title="Llama 3: optimal tokens",
        citation="Grattafiori et al. 2024, The Llama 3 Herd of Models, arXiv:2407.21783",
        place="D = 0.299 C^0.537 of the figure's legend, quoted by a secondary source",
        evidence="secondary",
        gives="D(C)",
        count="total",
        flops="6nd",
        data="Llama 3's mixture; 40M to 16B parameters",
        compute_min=6e18,
        compute_max=1e22,
        exponents="b = 0.537",
        d_law=PowerLaw(0.299, 0.537),
        notes=(
            "The paper's text prints (0.53, 0.29), which misses its own 16.55T tokens at 3.8e25 by 37%; "
            "the legend's coefficients give 16.3T.",
            "Which parameters and FLOPs are counted is not stated; total and 6 N D are assumed.",
        ),
        aliases=("llama-3",),
    ),
    PublishedLaw(
        name="gemstones",
        title="Gemstones: approach 1 over models of many shapes",
        citation="McLeish et al. 2025, Gemstones, arXiv:2502.06857",
        place="the authors' repository, ln N = 0.4994 ln C - 2.845 and ln D = 0.4810 ln C + 1.896",
        evidence="primary",
        gives="N(C)",
        count="total",
        flops="own",
        data="Dolma; up to 2B parameters",
        compute_min=None,
        compute_max=None,
        exponents="a = 0.499, b = 0.481 (0.627 for N without embeddings)",
        n_law=PowerLaw(math.exp(-2.845), 0.4994),
        d_law=PowerLaw(math.exp(1.896), 0.4810),
        notes=("N and D are two regressions: 6 N D of its optimum at 1e22 FLOPs is 0.86e22.",),
    ),
    PublishedLaw(
        name="nanochat",
        title="nanochat: four IsoFLOP optima of a speed-run recipe",
        citation="Karpathy 2026, nanochat, dev/LOG.md (github.com/karpathy/nanochat, 92d63d4)",
        place="regression through the log's optima at 1e18, 2e18, 5e18 and 1e19 FLOPs",
        evidence="derived",
        gives="N(C)",
        count="total-less-input-embedding",
        flops="own",
        data="nanochat's recipe (Muon and AdamW)",
        compute_min=1e18,
        compute_max=1e19,
        exponents="a = 0.54, b = 0.49 (0.37 for all parameters, 0.70 for the transformer alone)",
        n_law=regression(NANOCHAT_FLOPS, (110.7e6, 167.8e6, 250.7e6, 381.8e6)),
        d_law=regression(NANOCHAT_FLOPS, (1.24e9, 1.79e9, 2.64e9, 3.81e9)),
        notes=("FLOPs include attention, by the repository's own function.",),
    ),
)

LAWS: dict[str, PublishedLaw] = {law.name: law for law in _LAWS}
