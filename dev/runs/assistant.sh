#!/usr/bin/env bash
# From books to an assistant on a processor, in about two hours: a tokenizer and a base model of the
# texts, then supervised fine-tuning on conversations, identity and manners, and ten questions at the
# end. Started again, every part goes on where it was left.
#
#   TEXTS="novels.jsonl.xz essays/" CHATS="dolly.jsonl chat.json=2" dev/runs/assistant.sh
#   OUT=runs/assistant  NAME=Pico  STEPS=7000  EPOCHS=3        environment: where, its name, how long
set -euo pipefail
: "${TEXTS:?give the texts: TEXTS=\"books.jsonl.xz folder/\"}" "${CHATS:?give conversations: CHATS=\"dolly.jsonl\"}"
cd "$(dirname "$0")/../.."
OUT=${OUT:-runs/assistant} NAME=${NAME:-Pico} STEPS=${STEPS:-7000} EPOCHS=${EPOCHS:-3}
mkdir -p "$OUT"

make -s train_gpt2
llmc=".venv/bin/python -m llmc"
# shellcheck disable=SC2086  # lists of files
[ -f "$OUT/data/tokenizer.json" ] ||
    $llmc train_tokenizer --input $TEXTS --out "$OUT/data" --vocab_size 8192 --special chat
# shellcheck disable=SC2086
[ -f "$OUT/data/prepared.json" ] ||
    $llmc prepare_text --input $TEXTS --out "$OUT/data" --tokenizer "$OUT/data" --name texts --val_fraction 0.005 --overwrite

run="--data $OUT/data --preset llama-tiny --n_layer 6 --n_embd 288 --n_head 6 --n_kv_head 6 --tied 1 --max_seq_len 512"
run="$run --batch_size 8 --dtype bf16 --optimizer muon --lr 3e-3 --final_lr 0.05 --warmup_steps 100 --sample_every 500"
if [ -f "$OUT/base/config.json" ]; then run="--resume"; fi
[ -d "$OUT/base/checkpoints/step_$(printf %08d "$STEPS")" ] ||
    # shellcheck disable=SC2086
    $llmc pretrain --run "$OUT/base" $run --steps "$STEPS" --checkpoint_every 250
