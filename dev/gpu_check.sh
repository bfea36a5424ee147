#!/usr/bin/env bash
# dev/gpu_check.sh -- on a machine with an NVIDIA GPU and nvcc: environment, build, the tests on the device cuda, the
# sanitizers, and speed, also beside PyTorch, of which one for CUDA is wanted; what came of each goes to
# dev/notes/DATE-gpu.md. The exit status is 0 if all went well.
set -uo pipefail
cd "$(dirname "$0")/.."
note=dev/notes/$(date +%F)-gpu.md
failed=0

# say TITLE COMMAND...: its last lines ($lines, or 25), time and status go to the note
say() {
    local title=$1 start=$SECONDS status; shift
    printf '== %s\n' "$title"
    "$@" 2>&1 | tee build/gpu_check.log; status=$?
    { printf '\n## %s\n\n`%s`: status %d, %d s\n\n```\n' "$title" "$*" "$status" $((SECONDS - start))
      tail -n "${lines:-25}" build/gpu_check.log
      printf '```\n'; } >> "$note"
    ((status)) && failed=1
    return 0
}

make setup .venv/.ready-test || exit 1
.venv/bin/python dev/requirements.py gpu | tr '\n' '\0' | xargs -0 .venv/bin/pip install -q || exit 1
make train_gpt2cu || exit 1
[ -f data/gpu_check/tokenizer.json ] ||
    .venv/bin/llmc prepare_text --input README.md dev --out data/gpu_check --tokenizer gpt2 || exit 1

tests=(.venv/bin/python -m pytest -rs tests/ops -k "cuda and not emu")
printf '# %s on a GPU\n' "$(git describe --always --dirty)" > "$note"
say "The machine" nvidia-smi
say "Every op" "${tests[@]}"
say "Models" .venv/bin/python -m pytest -rs tests/gpu
say "Products and attention, step by step" make ladder_gpu
say "memcheck" compute-sanitizer --tool memcheck --error-exitcode 9 --target-processes all "${tests[@]}" -x
say "racecheck" compute-sanitizer --tool racecheck --error-exitcode 9 --target-processes all "${tests[@]}" -x
for dtype in f32 bf16; do
    say "Training, $dtype" ./train_gpt2cu --data data/gpu_check --run runs/gpu_check --overwrite --preset gpt2 \
        --seq_len 1024 --batch_size 4 --dtype "$dtype" --steps 20 --val_every 0 --sample_tokens 0 --profile
done
say "Training, as many rows as fit" ./train_gpt2cu --data data/gpu_check --run runs/gpu_check --overwrite --preset gpt2 \
    --seq_len 1024 --batch_size auto --total_batch_size 1048576 --dtype bf16 --steps 2 --val_every 0 --sample_tokens 0
lines=200 say "Speed, beside PyTorch" .venv/bin/llmc bench --device cuda --against torch --json "${note%.md}.json" \
    --png "${note%.md}.png"
printf '\nwritten: %s, and the figures of its last table beside it\n' "$note"
exit $failed
