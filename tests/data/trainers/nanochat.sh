#!/bin/bash
# Plan SEAL: 3.36B parameters, 49.6B tokens, 1e21 FLOPs (6nd).
# Carried over: sequence length, and size, tokens and batch as near as may be.
# Does not carry over:
#   - the shape: depth 40 (width 2560) is nearest, 3.23B parameters that multiply for 3.26B planned (-1.0%) and 1.72B more in tables that look up
#   - the tokens: 50.1B for 49.6B planned, keeping 6 N D
#   - the batch: 2,097,152 tokens, a power of two, for 2,097,152 planned
#   - optimizer, rates, schedule, weight decay: nanochat's Muon and AdamW with its own rules of size
#   - the MLP (squared ReLU, 4 x width) and the tokenizer, whose vocabulary must be the plan's
#   - the prediction: it was made for another recipe, and nanochat reports bits per byte
set -euo pipefail
torchrun --nnodes=8 --nproc_per_node=8 --rdzv-backend=c10d --rdzv-endpoint=FILL_IN -m scripts.base_train -- \
    --depth=40 \
    --aspect-ratio=64 \
    --head-dim=128 \
    --max-seq-len=2048 \
    --window-pattern=L \
    --num-iterations=23902 \
    --total-batch-size=2097152 \
    --model-tag=scaling-SEAL \
    --device-batch-size=16
